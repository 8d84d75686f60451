/* The data path's decisions: which packet goes where (RFC 8656 §10 to §12; turn/forwarding.py). No system calls. */
#ifndef TAVERN_CORE_H
#define TAVERN_CORE_H

#include "challenge.h"
#include "flows.h"

enum output_kind { OUT_DROPPED, OUT_TO_PEER, OUT_TO_CLIENT, OUT_UNFRAGMENTED, OUT_CONTROL, OUT_REPLY };

/* What a packet becomes: `data` is part of the packet's own memory, framed in place. */
struct output {
    enum output_kind kind;
    struct flow *flow;
    uint8_t *data;
    size_t size;
    struct address peer;
};

struct core_config {
    const struct address *own_hosts; /* the advertised addresses */
    uint32_t own_host_count;
    const uint16_t *listener_ports; /* on our own hosts these are nobody's peers */
    uint32_t listener_port_count;
    uint64_t user_bytes_per_s, bytes_per_s; /* 0: unlimited */
};

struct core *core_open(const struct core_config *config);
void core_close(struct core *core);

/* Packets. `data` has HEADROOM before it and TAILROOM behind it, which are written to. Times in monotonic seconds. */

/* A plain Binding request is answered if `may_reply`. */
void core_from_client(struct core *core, const struct client *client, uint8_t *data, size_t size, double now,
                      bool may_reply, struct output *output);
void core_from_peer(struct core *core, struct flow *flow, uint8_t *data, size_t size, const struct address *peer,
                    double now, struct output *output);
void core_from_shared(struct core *core, struct port *port, uint8_t *data, size_t size, const struct address *peer,
                      double now, struct output *output);

/* What an ICMP error about a packet to `peer` becomes, written to `room` of 72 bytes. */
void core_from_icmp(struct core *core, struct flow *flow, const struct address *peer, unsigned type, unsigned code,
                    uint32_t mtu, double now, uint8_t *room, struct output *output);

/* Shared ports (shared.c). */

struct port *core_open_port(struct core *core, const struct address *address, int fd);
/* Each of the host's family is a relayed address there, too; or is none there any more. */
void core_name_ports(struct core *core, const struct address *host);
void core_unname_ports(struct core *core, const struct address *host);

/* A check of a flow on a shared port names its agent. */
void shared_learn(struct core *core, struct flow *flow, const uint8_t *payload, size_t size);

/* The flow on `port` that a check from `source` is for; NULL where it names none or several. `from`: its flow, if any. */
struct flow *shared_choose(struct core *core, const struct port *port, const struct flow *from,
                           const struct address *source, const uint8_t *payload, size_t size, double now);

/* The flow on `port` that this one is paired with; NULL if there is none, or it is gone. */
struct flow *shared_pair(const struct core *core, const struct flow *flow, const struct port *port);

/* Remembers it. */
void shared_set_pair(struct flow *flow, struct port *port, const struct flow *other);

/* Commands (commands.c). */

/* What the shell has to do about a command, beyond what the core did. */
struct effect {
    enum { EFFECT_NONE, EFFECT_ADDED, EFFECT_REMOVED, EFFECT_SEND, EFFECT_STREAM, EFFECT_TO_STREAM } kind;
    struct flow *flow; /* ADDED */
    int added_index;
    int fds[2]; /* REMOVED: to be closed; -1: none */
    uint32_t generation;
    struct client client; /* SEND */
    uint32_t link;
    const uint8_t *data;
    uint32_t size;
};

/* Executes the command of `size` bytes. False for what cannot be read: our own bug. */
bool core_execute(struct core *core, const uint8_t *command, size_t size, struct effect *effect);

#endif
