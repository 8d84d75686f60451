/* What Python calls (library.py), all of it in one thread. */
#ifndef TAVERN_WEB_EXPORT_H
#define TAVERN_WEB_EXPORT_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

enum { WEB_ABI = 1 }; /* changes with whatever below does */

struct poller;
struct group;
struct connection;

/* Each record in the events is this, and `size` bytes of data behind it. */
enum event_kind {
    EVENT_RECEIVED,  /* what the connection's client sent, for Python to read after all else; nothing: it is gone */
    EVENT_UNSENT,    /* what of its messages the kernel did not take; `other`: whether a part of the first has left */
    EVENT_BROKEN,    /* nothing can be written to it any more */
    EVENT_ANNOUNCED, /* the connection told the one with the number `other` of this address */
};

struct event {
    uint64_t connection, other;
    uint32_t kind, size;
};

int tavern_web_abi(void);

/* NULL with errno. */
struct poller *tavern_web_open(void);
void tavern_web_close(struct poller *poller); /* once nobody listens */
int tavern_web_fd(const struct poller *poller);

/* Reads from some of those that have something to be read. How many messages were passed on (the upper 32 bits), and
 * how many bytes of events there are (the lower ones), which stand until the next turn. */
uint64_t tavern_web_turn(struct poller *poller, double now);
const uint8_t *tavern_web_events(const struct poller *poller);

/* A channel; its ids as they stand in JSON. */
struct group *tavern_web_open_group(const uint8_t *tavern, size_t tavern_size, const uint8_t *channel,
                                    size_t channel_size);
void tavern_web_close_group(struct group *group); /* which nobody is in */

/* A socket that does not block, by a number that no other one has. The descriptor is the caller's. Held at first. */
struct connection *tavern_web_add(int fd, uint64_t number);

/* `poller`: NULL where it is closed. */
void tavern_web_remove(struct poller *poller, struct connection *connection);

/* Whether it is read. -1 with errno. */
int tavern_web_listen(struct poller *poller, struct connection *connection, int wanted);

/* A held one's messages are all handed over. It is so from the first one that was, until it is released. */
void tavern_web_hold(struct connection *connection, int held);

/* Nothing is passed on to a blocked one: something waits already. It is so once it did not take all. */
void tavern_web_block(struct connection *connection, int blocked);

/* Its place, by the JSON text that the others know it by; NULL: none. False where the group is full. */
int tavern_web_move(struct connection *connection, struct group *group, const uint8_t *from, size_t from_size);

/* Before its first message: how many it may send in any second. */
void tavern_web_limit(struct connection *connection, uint32_t messages_per_s);

/* Whether one more message fits; counted if so. */
int tavern_web_allow(struct connection *connection, double now);

#endif
