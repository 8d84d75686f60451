/* Between the control side's thread and the data path's: bytes that wait, and who wakes whom. */
#ifndef TAVERN_QUEUES_H
#define TAVERN_QUEUES_H

#include "flows.h"

#include <pthread.h>
#include <stdatomic.h>

/* Records of a u32 size and as many bytes, from one thread to another one, in their order. */
struct records {
    pthread_mutex_t lock;
    uint8_t *data;
    size_t size, capacity;
    atomic_size_t waiting; /* `size`, to be looked at without the lock */
};

void records_open(struct records *records);
void records_close(struct records *records);

/* Appends one record made of two parts. */
void records_put(struct records *records, const void *head, size_t head_size, const void *data, size_t data_size);

/* Appends whole records, each with its size (32 bits) before it. */
void records_put_all(struct records *records, const void *data, size_t size);

/* All of them, for the caller to free; NULL if there are none. */
uint8_t *records_take_all(struct records *records, size_t *size);

/* As many whole ones as `room` has room for; their size. */
size_t records_take_some(struct records *records, uint8_t *to, size_t room);

/* Whoever sleeps on `fd` (an eventfd) is woken once until he has looked. */
struct wake {
    int fd;
    atomic_bool pending;
};

bool wake_open(struct wake *wake);
void wake_close(struct wake *wake);
void wake_up(struct wake *wake);

/* To be called before looking at what there is: what comes later wakes again. */
void wake_seen(struct wake *wake);

/* What waits for the control side: clients with a flow first, and nobody's share beyond its bound (control_queue.py). */

struct control_packet {
    struct client client;
    double received_at;
    uint32_t size;
    uint32_t reserved;
};

struct control;

struct control *control_open(void);
void control_close(struct control *control);

/* Whether it waits now. For the data path's thread. */
bool control_put(struct control *control, const struct client *client, const uint8_t *data, size_t size, double now,
                 bool has_flow);

/* The next one that is not too old, with up to 2048 bytes of data; false if there is none. For the control side. */
bool control_take(struct control *control, double now, struct control_packet *packet, uint8_t *data);

uint64_t control_dropped(struct control *control);

/* What waits for the clients over TCP and TLS; media of each is bounded. */

struct link {
    struct node node;
    uint32_t id;
    atomic_int_fast64_t media_waiting; /* bytes, padded */
};

enum stream_event { STREAM_MEDIA, STREAM_ANSWER, STREAM_END, STREAM_TOOK };

struct streams {
    pthread_mutex_t lock; /* of `links` */
    struct map links;
    struct records events; /* u32 link, u8 kind, data */
};

void streams_open(struct streams *streams);
void streams_close(struct streams *streams);
struct link *streams_open_link(struct streams *streams, uint32_t id);
void streams_close_link(struct streams *streams, struct link *link);

/* Whether media goes to the client, or nobody is left to miss it; false if too much waits already. */
bool streams_put_media(struct streams *streams, uint32_t link, const uint8_t *data, size_t size);
void streams_put(struct streams *streams, uint32_t link, enum stream_event kind, const uint8_t *data, size_t size);

#endif
