/* What the data path knows of allocations: permissions, channels, exact peers, shared ports (turn/flows.py). */
#ifndef TAVERN_FLOWS_H
#define TAVERN_FLOWS_H

#include "claims.h"
#include "meter.h"

enum {
    MAX_OWN_HOSTS = 8, /* turn/advertised.py */
    MAX_KNOWN_PEERS = 2048, /* a permission names an IP address with 65535 ports; what is cached of them is bounded */
    MAX_FRAGMENTS = 4,      /* an agent that restarts ICE has two at a time */
    MAX_FRAGMENT_SIZE = 256 /* RFC 8839 §5.4 */
};

/* How a client is known: a UDP one by addresses, one over TCP or TLS by the number of its link. */
struct client {
    struct address address;
    uint8_t local[16]; /* where its packets come to, where the listener has more than one address */
    uint32_t listener;
    uint32_t link; /* 0: UDP */
};

struct peer;

struct permission {
    struct node node; /* in its flow's, while `installed` */
    struct address host;
    double expires_at;
    struct claim *claim; /* while the address has not spoken */
    struct peer *known;  /* peers that point here: they go with it */
    bool installed, relayed_only, own, claimed;
};

/* One exact peer of one flow: what packets from it and to it need, found with one look-up. */
struct peer {
    struct node node;         /* in its flow's peers, while `is_known` */
    struct node channel_node; /* in its flow's channels, while `number` is not 0 */
    struct node owner_node;   /* in its shared port's owners, while `is_owned` */
    struct flow *flow;
    struct address address;
    struct permission *permission;
    struct peer *next, **previous; /* among the permission's */
    double channel_expires_at;
    uint16_t number;
    bool ours; /* its IP address is the relay's own */
    bool is_known, is_owned, channel_relayed_only;
};

/* A relay socket that allocations share: packets find theirs by the peer's exact address. */
struct port {
    struct node node; /* by address */
    struct address address; /* the first that it had */
    struct map owners; /* exact outside peers */
    int fd;
};

/* A relayed address that a shared port is. */
struct port_name {
    struct node node; /* by address */
    struct address address;
    struct port *port;
};

/* A flow on a shared port was told to mean one of the allocations on another. */
struct pair {
    struct pair *next;
    struct port *port;
    uint64_t flow_id;
};

/* What the flow's own connectivity checks named as its agent's (RFC 8445 §7.2.2: after the colon). */
struct fragment {
    struct node node[2]; /* in the core's, for each family of which the flow's port is shared */
    struct flow *flow;
    uint16_t size;
    uint8_t text[];
};

struct relayed {
    struct node node; /* by address, where it is the flow's own */
    struct address address;
    struct port *port; /* where it is shared */
    int fd;
    bool present;
};

/* Of the figures that the control side reads meanwhile: each is whole, also where a word has 32 bits. */
static inline void count_up(uint64_t *counter, uint64_t by)
{
    __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

struct traffic {
    uint64_t packets_from_clients, bytes_from_clients;
    uint64_t packets_to_clients, bytes_to_clients;
    uint64_t packets_handed_over, bytes_handed_over; /* of those from clients */
};

struct flow {
    struct node by_id, by_client;
    uint64_t id;
    struct client client;
    uint64_t user;
    struct account *account;
    uint64_t *circles; /* sorted */
    uint32_t circle_count;
    bool has_circles;
    struct relayed relayed[2]; /* IPv4, IPv6 */
    struct traffic traffic;
    struct map permissions, peers, channels;
    struct pair *pairs;
    struct fragment *fragments[MAX_FRAGMENTS]; /* the oldest first */
};

struct core {
    struct map flows, clients, relayed, port_names, fragments;
    struct map ports; /* all shared ones, from before the first packet to the end: others look at them, too */
    struct address own_hosts[MAX_OWN_HOSTS];
    uint32_t own_host_count;
    uint16_t *listener_ports;
    uint32_t listener_port_count;
    struct permission never; /* what a peer points to whose permission is not known */
    struct checks *checks;
    struct challenge *challenge; /* NULL: all requests are the control side's */
    uint64_t challenges;         /* how many it has answered */
    struct meter meter;
    struct traffic traffic;
    uint64_t drops[DROP_COUNT];
    uint64_t random[2];
    bool fixed_transaction; /* for tests */
    uint8_t transaction[12];
};

/* Finding: NULL where there is none. */
struct flow *flow_find(const struct core *core, uint64_t id);
struct flow *flow_of_client(const struct core *core, const struct client *client);
struct flow *flow_at(const struct core *core, const struct address *relayed);
struct port *port_at(const struct core *core, const struct address *relayed);
struct permission *permission_find(const struct flow *flow, const struct address *host);
struct peer *peer_find(const struct flow *flow, const struct address *address);
struct peer *channel_find(const struct flow *flow, uint16_t number);

bool is_own_host(const struct core *core, const struct address *address);

/* Whether the relay listens there: such a peer would make it its own client. */
bool is_listener(const struct core *core, const struct address *address, const struct permission *permission);

/* Whether their clients are with each other. */
bool flow_reaches(const struct flow *flow, const struct flow *other);

/* The entry of this exact peer, made if there is none; NULL if it is another flow's on the same port. */
struct peer *peer_know(struct core *core, struct flow *flow, const struct address *address);

/* `permission` is the one of this peer; withdrawn, it takes the peer along. */
void peer_permit(struct peer *peer, struct permission *permission);
void peer_forget(struct flow *flow, struct peer *peer);
void permission_revoke(struct flow *flow, struct permission *permission);
void channel_unbind(struct flow *flow, struct peer *peer);

/* Whether it is not a relayed address of ours: between those, packets are handed over. */
bool is_outside(const struct core *core, const struct address *address);

/* Whose exact peer this is on a shared port. */
struct peer *port_owner(const struct port *port, const struct address *address);

/* Whether another flow on the same port owns it. */
bool peer_is_anothers(const struct core *core, const struct flow *flow, const struct address *address);

/* The peer, which is outside, is its flow's own on the shared port unless it is another's: whether it is. */
bool peer_own(struct peer *peer);

/* The same of one that may be inside, on a port that may be the flow's alone: of those there is no owner. */
void peer_own_if_outside(const struct core *core, struct peer *peer);

/* It is its flow's own no longer, if it was. */
void peer_disown(struct peer *peer);

/* Checks that name the flow's fragments find it on its shared port of this family, or do no longer. */
void fragments_link(struct core *core, struct flow *flow, int family);
void fragments_unlink(struct core *core, struct flow *flow, int family);

/* The flow, which is in no map of the core any more, is gone with all that it holds. */
void flow_free(struct core *core, struct flow *flow);

#endif
