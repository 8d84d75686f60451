/* A load of TURN clients and their peers on 127.0.0.1, all in the calling thread. Linux.
 *
 * Python (loadgen.py) opens it, has it ask the server for allocations and channels (handshake.c), and then has it send
 * and count packets (traffic.c). The structures that Python knows too are marked so.
 */
#ifndef LOADGEN_H
#define LOADGEN_H

#include <netinet/in.h>
#include <stdint.h>
#include <time.h>

enum {
    KEY_SIZE = 16,
    USERNAME_SIZE = 64, /* with its closing zero */
    TEXT_SIZE = 128,    /* of a realm or nonce */
    CHANNEL = 0x4000,   /* every client's only one */
};

struct client {
    int fd; /* connected to the server */
    struct sockaddr_in relayed;
    uint8_t key[KEY_SIZE];
    char username[USERNAME_SIZE];
    uint8_t realm[TEXT_SIZE], nonce[TEXT_SIZE];
    uint16_t realm_size, nonce_size;
};

struct peer {
    int fd;
    struct sockaddr_in address;
};

/* Client i talks to channel_peers[i % peer_count] over its channel and to other_peers[...] with indications. */
struct load {
    struct sockaddr_in server;
    struct client *clients;
    struct peer *channel_peers, *other_peers;
    int client_count, peer_count;
    uint32_t run; /* the number of the last run of packets */
};

/* Python knows it: what a client asks for. */
enum step { ALLOCATE, BIND_PEER, BIND_PARTNER, REFRESH_ZERO };

/* Python knows it. */
struct handshakes {
    uint64_t done, failed, repeated, elapsed_ns;
    uint32_t error_code; /* of the last one that failed; 0: no answer came */
};

/* Python knows it: the ways of a packet. With PARTNERS clients 2k and 2k + 1 have channels to each other's relayed
 * address; with ECHO the server sends back what it gets. */
enum way { CHANNEL_UP, CHANNEL_DOWN, INDICATION_UP, INDICATION_DOWN, PARTNERS, ECHO };

/* Python knows it: which clients talk, and how. */
struct talk {
    int32_t way, first, count, stride;
    uint32_t payload_size; /* bytes, MIN_PAYLOAD to MAX_PAYLOAD */
    uint32_t window;       /* packets in flight at most; where it is not paced */
    uint32_t packets_per_s;
    uint32_t spins; /* whether a paced run spins for its packets, or sleeps */
    uint64_t duration_ns;
};

/* Python knows it. */
struct counts {
    uint64_t sent, delivered, misdelivered, duplicated, foreign, unsent, skipped, elapsed_ns;
    uint64_t latency_p50_ns, latency_p99_ns, latency_max_ns;
};

static inline uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
