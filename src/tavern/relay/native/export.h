/* What Python calls (library.py), in the order in which it does. One thread runs `tavern_run`, another one all else. */
#ifndef TAVERN_EXPORT_H
#define TAVERN_EXPORT_H

#include "core.h"
#include "queues.h"

#define EXPORT __attribute__((visibility("default")))

enum { ABI = 3 }; /* changes with whatever below does */

struct data_path;

int tavern_abi(void);
const char *tavern_drop_name(unsigned reason);

/* NULL with errno. Owns the descriptors that are given to it, and closes them in `tavern_close`. */
struct data_path *tavern_open(const struct core_config *config);

/* Once `tavern_run` has returned or was never called. */
void tavern_close(struct data_path *path);

/* Before `tavern_run`. The listener's index, -1 with errno. `has_local`: packets say which address they came to. */
int tavern_add_listener(struct data_path *path, int fd, unsigned family, int has_local);

/* The listeners are the caller's again; nothing but `tavern_close` may follow. */
void tavern_give_back_listeners(struct data_path *path);

/* Before `tavern_run`: a relay socket that allocations share. -1 with errno. */
int tavern_open_shared(struct data_path *path, const struct address *address, int fd);

/* Before `tavern_run`: who asks for an allocation without credentials gets its 401 (challenge.h). 0: not served so. */
int tavern_set_challenge(struct data_path *path, const uint8_t *key, size_t key_size, const uint8_t *realm,
                         size_t realm_size, double rate_per_s, double burst);

/* Moves packets until `tavern_stop`: 0; or the errno of what ended it. */
int tavern_run(struct data_path *path);
void tavern_stop(struct data_path *path);

/* The generation by which a command hands over the socket; 0 with errno. */
uint32_t tavern_watch(struct data_path *path, int fd);

/* Executes a command (commands.h), in the order of the calls. */
void tavern_submit(struct data_path *path, const uint8_t *command, size_t size);

/* The same of several, each with its size (32 bits) before it. */
void tavern_submit_all(struct data_path *path, const uint8_t *commands, size_t size);

/* Readable when there may be control packets or events; to be called before looking at them. */
int tavern_notice_fd(const struct data_path *path);
void tavern_notice_seen(struct data_path *path);

/* Whether there is one: up to 2048 bytes of data. */
int tavern_take_control(struct data_path *path, double now, struct control_packet *packet, uint8_t *data);

/* A client over TCP or TLS, by a number that is not 0; `taken` of its media is on the stream. */
struct link *tavern_open_link(struct data_path *path, uint32_t id);
void tavern_link_taken(struct link *link, uint64_t size);
void tavern_close_link(struct data_path *path, struct link *link);

/* Whole records (queues.h), as far as there is room. */
size_t tavern_take_events(struct data_path *path, uint8_t *to, size_t room);

/* `drops`: DROP_COUNT of them. `challenges`: how many were answered. */
void tavern_statistics(struct data_path *path, struct traffic *traffic, uint64_t *drops, uint64_t *challenges);

/* The decisions alone, without sockets and threads: what tests hold against turn/forwarding.py. */

struct decision {
    uint32_t kind; /* enum output_kind */
    uint32_t size;
    uint64_t flow;
    struct address peer;
};

struct core *tavern_core_open(const struct core_config *config, const uint8_t *transaction);
void tavern_core_close(struct core *core);
int tavern_core_set_challenge(struct core *core, const uint8_t *key, size_t key_size, const uint8_t *realm,
                              size_t realm_size, double rate_per_s, double burst);
void tavern_core_open_shared(struct core *core, const struct address *address);

/* 0, or -1 where it cannot be read. */
int tavern_core_execute(struct core *core, const uint8_t *command, size_t size);

/* `to`: room for what leaves, 66,000 bytes. */
void tavern_core_from_client(struct core *core, const struct client *client, const uint8_t *data, size_t size,
                             double now, int may_reply, struct decision *decision, uint8_t *to);
void tavern_core_from_peer(struct core *core, uint64_t flow, const uint8_t *data, size_t size,
                           const struct address *peer, double now, struct decision *decision, uint8_t *to);
void tavern_core_from_shared(struct core *core, const struct address *port, const uint8_t *data, size_t size,
                             const struct address *peer, double now, struct decision *decision, uint8_t *to);
void tavern_core_from_icmp(struct core *core, uint64_t flow, const struct address *peer, unsigned type, unsigned code,
                           uint32_t mtu, double now, struct decision *decision, uint8_t *to);
void tavern_core_from_shared_icmp(struct core *core, const struct address *port, const struct address *peer,
                                  unsigned type, unsigned code, uint32_t mtu, double now, struct decision *decision,
                                  uint8_t *to);
void tavern_core_counters(const struct core *core, struct traffic *traffic, uint64_t *drops);

/* 0 where there is no such flow. */
int tavern_core_flow_traffic(const struct core *core, uint64_t flow, struct traffic *traffic);

struct known_permission {
    struct address host;
    double expires_at;
    uint32_t relayed_only, own, claimed, unproven;
};

struct known_peer {
    struct address address;
    double channel_expires_at;
    uint32_t number, owned;
};

/* How many there are; the first `room` are written. */
size_t tavern_core_permissions(const struct core *core, uint64_t flow, struct known_permission *to, size_t room);
size_t tavern_core_peers(const struct core *core, uint64_t flow, struct known_peer *to, size_t room);

/* The users whose rate is counted: with flows, and some without. */
size_t tavern_core_accounts(const struct core *core);

#endif
