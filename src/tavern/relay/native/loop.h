/* The data path's thread: sockets, batches, commands. Everything here but the queues is this thread's alone. */
#ifndef TAVERN_LOOP_H
#define TAVERN_LOOP_H

#include "core.h"
#include "queues.h"

#include <sys/socket.h>

enum {
    SLOTS = 128,          /* packets under way at once: all that a turn of one listener may take */
    MAX_DATAGRAM = 65536,
    MAX_FRAME = STUN_HEADER_SIZE + 65532, /* of a stream; larger than a datagram */
    SLOT_SIZE = HEADROOM + MAX_DATAGRAM + 192,
    MAX_LISTENERS = 64,
};

_Static_assert(HEADROOM + MAX_FRAME + TAILROOM <= SLOT_SIZE, "every packet has its slot");

enum socket_kind { UNUSED, LISTENER, RELAY, SHARED };

/* What the thread knows of a descriptor. An event of another generation is of a socket that is gone or to come. */
struct open_socket {
    uint32_t generation;
    enum socket_kind kind;
    uint8_t index;     /* of the LISTENER */
    uint8_t at_once;   /* how many packets a relay socket is asked for: more where it is ready turn after turn */
    uint32_t last_turn; /* when it was ready last */
    struct flow *flow; /* RELAY */
    struct port *port; /* SHARED */
};

struct listener {
    int fd;
    uint16_t family;
    bool has_local; /* bound to all addresses: packets say which one they came to */
};

/* A packet that leaves when the batch does. */
struct leaving {
    int fd;
    bool is_relay;
    struct iovec data;
    struct sockaddr_storage to;
    socklen_t to_size;
    size_t control_size;
    _Alignas(8) uint8_t control[64];
};

struct data_path {
    struct core *core;
    struct listener listeners[MAX_LISTENERS];
    uint32_t listener_count;
    int epoll_fd;
    struct wake wake;   /* this thread */
    struct wake notice; /* the control side */
    struct records commands;
    uint8_t *executing; /* taken from `commands`, as far as there was time */
    size_t executing_size, executed;
    struct control *control;
    struct streams streams;
    atomic_bool stopping;
    atomic_uint last_generation;
    bool failed; /* a command could not be read: our own bug */
    bool tell;   /* the control side has something to look at */
    double now;
    uint32_t turn;
    int ready;      /* sockets in this turn */
    bool has_slept; /* before this turn, since there was nothing to do */

    struct open_socket *sockets; /* by descriptor */
    uint32_t socket_count;
    uint64_t closed_drops; /* by the kernel, of sockets that are gone */

    uint8_t *slots;
    uint32_t slots_used;
    struct mmsghdr received[SLOTS]; /* the same message headers for every batch */
    struct iovec received_data[SLOTS];
    struct sockaddr_storage received_from[SLOTS];
    _Alignas(8) uint8_t received_control[SLOTS][64];

    struct leaving to_peers[SLOTS], to_clients[SLOTS];
    uint32_t to_peers_count, to_clients_count;
    struct mmsghdr sent[SLOTS];
    uint32_t runs_without_segments; /* since the kernel has refused them */
};

/* receive.c */
void prepare_receiving(struct data_path *path);
void drain_listener(struct data_path *path, struct open_socket *sock);
void drain_relay(struct data_path *path, struct open_socket *sock, int fd);
void read_icmp_errors(struct data_path *path, struct open_socket *sock, int fd);

/* A slot of the batch; the batch is sent before where all are taken. */
uint8_t *take_slot(struct data_path *path);

/* What the core said goes on its way. */
void act(struct data_path *path, const struct output *output);

/* send.c */
void send_to_client(struct data_path *path, const struct client *client, uint8_t *data, size_t size);
void send_to_peer(struct data_path *path, const struct output *output);
void send_unfragmented(struct data_path *path, const struct output *output);

/* All that was to be sent has left or was counted. */
void flush(struct data_path *path);

/* And no packet is under way: not while some of those that were received at once are still to be looked at. */
void free_slots(struct data_path *path);

/* execute.c */
struct open_socket *socket_entry(struct data_path *path, int fd);

/* Some of the commands that wait; whether there are more. */
bool execute_commands(struct data_path *path);

uint64_t kernel_drops(int fd);

#endif
