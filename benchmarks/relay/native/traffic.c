/* Packets at full speed, or paced. */
#include "traffic.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BURST = 32, MAX_EVENTS = 64 };
static const uint64_t STUCK_AFTER_NS = 2 * 1000000ull;      /* the oldest may be lost while others have arrived */
static const uint64_t OVERTAKEN_AFTER_NS = 20 * 1000000ull; /* so it is, if others are there for so long */
static const uint64_t LOST_AFTER_NS = 500 * 1000000ull;     /* a server on a busy machine may not run for a while */
static const uint64_t LATE_AFTER_NS = 300 * 1000000ull;     /* at the end of a run, when nothing more is sent */

/* Which packets are on their way, the oldest first. */
struct order {
    uint32_t *lanes;
    uint64_t taken, put, capacity;
    uint64_t progress_at_ns;
};

static int order_open(struct order *order, uint64_t capacity, uint64_t now) {
    *order = (struct order){.capacity = capacity, .progress_at_ns = now};
    order->lanes = calloc(capacity, sizeof *order->lanes);
    return order->lanes == NULL ? -1 : 0;
}

static void order_put(struct order *order, uint32_t first, uint32_t count, uint32_t lane_count) {
    for (uint32_t i = 0; i < count; i++)
        order->lanes[order->put++ % order->capacity] = (first + i) % lane_count;
}

static struct lane *oldest(struct run *run, const struct order *order) {
    return &run->lanes[order->lanes[order->taken % order->capacity]];
}

static int is_overtaken(const struct run *run, const struct order *order) {
    for (uint64_t i = order->taken + 1; i < order->put; i++)
        if (run->lanes[order->lanes[i % order->capacity]].arrived > 0)
            return 1;
    return 0;
}

static void give_up_oldest(struct run *run, struct order *order) {
    struct lane *lane = oldest(run, order);
    order->taken++;
    if (lane->outstanding > 0) {
        lane->outstanding--;
        run->in_flight--;
    }
}

static void give_up_all(struct run *run, struct order *order, uint64_t now) {
    for (uint32_t i = 0; i < run->lane_count; i++)
        run->lanes[i].outstanding = run->lanes[i].arrived = 0;
    run->in_flight = 0;
    order->taken = order->put;
    order->progress_at_ns = now;
}

static void look_elsewhere(struct run *run, struct order *order, uint64_t now) {
    uint64_t stuck_ns = now - order->progress_at_ns;
    if (stuck_ns < STUCK_AFTER_NS || run_sweep(run) > 0)
        return;
    if (stuck_ns > OVERTAKEN_AFTER_NS && is_overtaken(run, order))
        give_up_oldest(run, order);
    else if (stuck_ns > LOST_AFTER_NS)
        give_up_all(run, order, now);
}

/* Takes what has arrived of the oldest packets, without asking the kernel to watch thousands of sockets: that would be
 * work for whoever delivers to them, which is the server. */
static void take_oldest(struct run *run, struct order *order, uint64_t now) {
    int progress = 0;
    while (order->taken < order->put) {
        struct lane *lane = oldest(run, order);
        if (lane->arrived == 0 && (run_receive(run, lane) == 0 || lane->arrived == 0))
            break;
        lane->arrived--;
        order->taken++;
        progress = 1;
    }
    if (progress || order->taken == order->put)
        order->progress_at_ns = now;
    else
        look_elsewhere(run, order, now);
}

static int has_room(const struct order *order, uint32_t count) {
    return order->put + count - order->taken <= order->capacity;
}

static void full_speed(struct run *run, struct order *order, const struct talk *talk) {
    uint64_t started = now_ns(), end = started + talk->duration_ns, now = started;
    uint32_t next = 0, burst = talk->window < 2 * BURST ? (talk->window + 1) / 2 : BURST;
    while (now < end || run->in_flight > 0) {
        if (now < end && run->in_flight + burst <= talk->window && has_room(order, burst)) {
            run_send(run, next, burst, now);
            order_put(order, next, burst, run->lane_count);
            next = (next + burst) % run->lane_count;
        }
        take_oldest(run, order, now);
        now = now_ns();
    }
    run->counts->elapsed_ns = order->progress_at_ns - started;
}

static void sleep_until(int epoll, uint64_t at) {
    struct epoll_event events[MAX_EVENTS];
    uint64_t now = now_ns();
    struct timespec left = {0};
    if (at > now)
        left = (struct timespec){(time_t)((at - now) / 1000000000u), (long)((at - now) % 1000000000u)};
    struct pollfd poll = {.fd = epoll, .events = POLLIN};
    if (ppoll(&poll, 1, &left, NULL) > 0)
        (void)!epoll_wait(epoll, events, MAX_EVENTS, 0); /* the order says where to look */
}

/* One packet every 1/packets_per_s. Who was late does not catch up with a burst: what it had no time for is skipped. */
static void paced(struct run *run, struct order *order, const struct talk *talk, int epoll) {
    uint64_t interval = 1000000000ull / talk->packets_per_s;
    uint64_t started = now_ns(), end = started + talk->duration_ns, now = started, due = started;
    uint32_t next = 0;
    while (now < end || run->in_flight > 0) {
        if (now < end && now >= due && has_room(order, 1)) {
            run_send(run, next, 1, now);
            order_put(order, next, 1, run->lane_count);
            next = (next + 1) % run->lane_count;
            due += interval;
            if (due < now) {
                run->counts->skipped += (now - due) / interval;
                due = now + interval - (now - due) % interval;
            }
        }
        take_oldest(run, order, now);
        if (epoll >= 0)
            sleep_until(epoll, now < end ? due : now + interval);
        now = now_ns();
    }
    run->counts->elapsed_ns = order->progress_at_ns - started;
}

static int watch(const struct run *run) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (uint32_t i = 0; epoll >= 0 && i < run->lane_count; i++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, run->lanes[i].receive_fd, &event) < 0 && errno != EEXIST) {
            close(epoll);
            return -1;
        }
    }
    return epoll;
}

/* Of a server that was kept from running, packets arrive that were already given up. */
static void wait_for_late_ones(struct run *run) {
    uint64_t progress_at = now_ns();
    while (run->counts->delivered < run->counts->sent && now_ns() - progress_at < LATE_AFTER_NS)
        if (run_sweep(run) > 0)
            progress_at = now_ns();
}

static int compare(const void *one, const void *other) {
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static void sum_up(struct run *run) {
    uint64_t count = run->latency_count;
    if (count == 0)
        return;
    qsort(run->latencies_ns, count, sizeof *run->latencies_ns, compare);
    run->counts->latency_p50_ns = run->latencies_ns[count / 2];
    run->counts->latency_p99_ns = run->latencies_ns[count * 99 / 100];
    run->counts->latency_max_ns = run->latencies_ns[count - 1];
}

static int run_paced(struct run *run, struct order *order, const struct talk *talk) {
    run->latency_capacity = talk->duration_ns / 1000000u * talk->packets_per_s / 1000u + talk->packets_per_s;
    run->latencies_ns = calloc(run->latency_capacity, sizeof *run->latencies_ns);
    int epoll = talk->spins ? -1 : watch(run);
    if (run->latencies_ns == NULL || (!talk->spins && epoll < 0))
        return -1;
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    paced(run, order, talk, epoll);
    if (epoll >= 0)
        close(epoll);
    return 0;
}

/* Sends and counts packets as `talk` says. Returns 0, or -1 with errno set where it could not begin. */
int load_talk(struct load *load, const struct talk *talk, struct counts *counts) {
    struct run run;
    struct order order = {0};
    int status = run_open(&run, load, talk, counts);
    uint64_t capacity = talk->packets_per_s > 0 ? talk->packets_per_s : talk->window + BURST;
    if (status == 0)
        status = order_open(&order, capacity, now_ns());
    if (status == 0) {
        run_sweep(&run); /* what is left of what came before */
        counts->foreign = 0;
        if (talk->packets_per_s > 0)
            status = run_paced(&run, &order, talk);
        else
            full_speed(&run, &order, talk);
        wait_for_late_ones(&run);
        sum_up(&run);
    }
    run_close(&run);
    free(order.lanes);
    return status;
}

static uint64_t drain(int fd) {
    uint8_t bytes[FRAME_SIZE];
    uint64_t count = 0;
    while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) >= 0)
        count++;
    return count;
}

/* How many packets wait at any of the load's sockets, which are then gone: after a run there must be none. */
uint64_t load_drain(struct load *load) {
    uint64_t count = 0;
    for (int i = 0; i < load->client_count; i++)
        count += drain(load->clients[i].fd);
    for (int i = 0; i < load->peer_count; i++)
        count += drain(load->channel_peers[i].fd) + drain(load->other_peers[i].fd);
    return count;
}
