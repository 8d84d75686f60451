/* The lanes of a run: for each talking client, where its packets start and where they must arrive. */
#ifndef TRAFFIC_H
#define TRAFFIC_H

#include "loadgen.h"

enum {
    MIN_PAYLOAD = 32,
    MAX_PAYLOAD = 1200,
    MAX_HEADER = 48,
    FRAME_SIZE = MAX_HEADER + MAX_PAYLOAD + 4,
    BATCH = 64, /* packets to or from one socket at once */
};

struct lane {
    int send_fd, receive_fd;
    struct sockaddr_in to; /* where send_fd is a peer's */
    int has_to;
    uint8_t header[MAX_HEADER];
    uint32_t header_size;
    uint32_t outstanding;
    uint32_t arrived; /* of those that are not yet taken off the order of sending */
    uint64_t next_sequence, expected_sequence;
};

/* What a run of packets works with. */
struct run {
    struct lane *lanes;
    uint32_t lane_count;
    uint32_t number, payload_size;
    uint32_t in_flight;
    struct counts *counts;
    uint32_t *latencies_ns; /* NULL where they are not kept */
    uint64_t latency_count, latency_capacity;
};

/* The lanes of `talk`. -1 with errno set where there is no memory, or `talk` asks for what is not there. */
int run_open(struct run *run, struct load *load, const struct talk *talk, struct counts *counts);
void run_close(struct run *run);

/* Sends one packet of each of `count` (up to BATCH) consecutive lanes from `first` on, in turn. */
void run_send(struct run *run, uint32_t first, uint32_t count, uint64_t now);

/* Takes what has arrived at the lane's far end, and counts it; how many packets that were. */
int run_receive(struct run *run, const struct lane *lane);

/* Takes what has arrived anywhere. */
int run_sweep(struct run *run);

#endif
