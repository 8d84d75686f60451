#include "loop.h"

#include "export.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const double LEAST_SLEEP_S = 5e-6; /* a call that finds something takes 1 us */

enum { TURN_NS = 100000 }; /* the kernel's least: a turn of the loop takes some 10 us, and 500 us in a flood */

enum { MAX_EVENTS = 64 }; /* sockets served before commands are looked at again */

static double monotonic_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static bool watch(struct data_path *path, int fd, uint32_t generation)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)generation << 32 | (uint32_t)fd};
    return epoll_ctl(path->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool serve_socket(struct data_path *path, int fd, uint32_t generation, uint32_t events)
{
    struct open_socket *sock = socket_entry(path, fd);
    if (sock->generation != generation)
        return false; /* it went with a command, or comes with one */
    if (sock->kind == LISTENER) {
        drain_listener(path, sock);
        return true;
    }
    if (events & EPOLLERR)
        read_icmp_errors(path, sock, fd);
    drain_relay(path, sock, fd);
    return true;
}

static void tell_control_side(struct data_path *path)
{
    if (!path->tell)
        return;
    path->tell = false;
    wake_up(&path->notice);
}

/* A packet takes microseconds, and must not wait until another thread of this core has had its milliseconds: the kernel
(from Linux 6.12 on) lets who asks for short turns have his sooner, and no more of them. Where it does not know how, or
may not, all is as before. The name is for who looks at threads. */
static void prefer_short_turns(void)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } wanted = {.size = sizeof wanted,
                .policy = SCHED_OTHER,
                .nice = getpriority(PRIO_PROCESS, 0),
                .runtime_ns = TURN_NS};
    if (sched_getscheduler(0) == SCHED_OTHER)
        syscall(SYS_sched_setattr, 0, &wanted, 0);
    prctl(PR_SET_NAME, "tavern-relay");
}

EXPORT int tavern_run(struct data_path *path)
{
    struct epoll_event events[MAX_EVENTS];
    prefer_short_turns();
    while (!atomic_load(&path->stopping) && !path->failed) {
        bool woken = false;
        double waits_from = monotonic_s();
        int count = epoll_wait(path->epoll_fd, events, MAX_EVENTS, -1);
        if (count < 0 && errno != EINTR)
            return errno;
        path->now = monotonic_s();
        path->has_slept = path->now - waits_from > LEAST_SLEEP_S;
        path->turn++;
        path->ready = count;
        /* Before the packets: who was told that somebody left must find him gone. */
        bool more = execute_commands(path);
        for (int at = 0; at < count; at++) {
            int fd = (int)(uint32_t)events[at].data.u64;
            if (fd == path->wake.fd)
                woken = true;
            else
                serve_socket(path, fd, (uint32_t)(events[at].data.u64 >> 32), events[at].events);
        }
        free_slots(path);
        if (woken) {
            wake_seen(&path->wake);
            more = execute_commands(path);
            free_slots(path);
        }
        if (more)
            wake_up(&path->wake); /* the rest after the sockets */
        tell_control_side(path);
    }
    return path->failed ? EBADMSG : 0;
}

static struct data_path *open_path(const struct core_config *config)
{
    struct data_path *path = allocate(sizeof *path);
    records_open(&path->commands);
    streams_open(&path->streams);
    path->control = control_open();
    path->core = core_open(config);
    path->wake.fd = path->notice.fd = -1;
    path->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    path->slots = mmap(NULL, (size_t)SLOT_SIZE * SLOTS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (path->slots != MAP_FAILED)
        prepare_receiving(path);
    return path;
}

EXPORT struct data_path *tavern_open(const struct core_config *config)
{
    struct data_path *path = open_path(config);
    if (path->epoll_fd < 0 || path->slots == MAP_FAILED || !wake_open(&path->wake) || !wake_open(&path->notice) ||
        !watch(path, path->wake.fd, 0)) {
        int error = errno;
        tavern_close(path);
        errno = error;
        return NULL;
    }
    return path;
}

static void close_flow(struct node *node, void *context)
{
    (void)context;
    const struct flow *flow = CONTAINER(node, struct flow, by_id);
    for (int at = 0; at < 2; at++)
        if (flow->relayed[at].present && flow->relayed[at].port == NULL)
            close(flow->relayed[at].fd);
}

static void close_port(struct node *node, void *context)
{
    (void)context;
    close(CONTAINER(node, struct port, node)->fd);
}

EXPORT void tavern_close(struct data_path *path)
{
    path->to_peers_count = path->to_clients_count = 0;
    do
        path->failed = false; /* what cannot be read is passed over */
    while (execute_commands(path)); /* for the sockets that came with them */
    path->to_peers_count = path->to_clients_count = 0;
    map_each(&path->core->flows, close_flow, NULL);
    map_each(&path->core->ports, close_port, NULL);
    for (uint32_t at = 0; at < path->listener_count; at++)
        close(path->listeners[at].fd);
    core_close(path->core);
    control_close(path->control);
    streams_close(&path->streams);
    records_close(&path->commands);
    wake_close(&path->wake);
    wake_close(&path->notice);
    if (path->epoll_fd >= 0)
        close(path->epoll_fd);
    if (path->slots != MAP_FAILED)
        munmap(path->slots, (size_t)SLOT_SIZE * SLOTS);
    free(path->executing);
    free(path->sockets);
    free(path);
}

EXPORT int tavern_add_listener(struct data_path *path, int fd, unsigned family, int has_local)
{
    uint32_t index = path->listener_count;
    uint32_t generation = atomic_fetch_add(&path->last_generation, 1) + 1;
    if (index == MAX_LISTENERS || !watch(path, fd, generation))
        return -1;
    path->listeners[path->listener_count++] = (struct listener){fd, (uint16_t)family, has_local};
    *socket_entry(path, fd) =
        (struct open_socket){.generation = generation, .kind = LISTENER, .index = (uint8_t)index};
    return (int)index;
}

EXPORT void tavern_give_back_listeners(struct data_path *path)
{
    path->listener_count = 0;
}

EXPORT int tavern_open_shared(struct data_path *path, const struct address *address, int fd)
{
    uint32_t generation = atomic_fetch_add(&path->last_generation, 1) + 1;
    if (!watch(path, fd, generation))
        return -1;
    *socket_entry(path, fd) = (struct open_socket){
        .generation = generation, .kind = SHARED, .at_once = 1, .port = core_open_port(path->core, address, fd)};
    return 0;
}

EXPORT uint32_t tavern_watch(struct data_path *path, int fd)
{
    uint32_t generation = atomic_fetch_add(&path->last_generation, 1) + 1;
    if (generation == 0) /* of descriptors that are in no use */
        generation = atomic_fetch_add(&path->last_generation, 1) + 1;
    return watch(path, fd, generation) ? generation : 0;
}

EXPORT void tavern_submit(struct data_path *path, const uint8_t *command, size_t size)
{
    records_put(&path->commands, command, size, NULL, 0);
    wake_up(&path->wake);
}

EXPORT void tavern_stop(struct data_path *path)
{
    atomic_store(&path->stopping, true);
    atomic_store(&path->wake.pending, false);
    wake_up(&path->wake);
}

EXPORT int tavern_notice_fd(const struct data_path *path)
{
    return path->notice.fd;
}

EXPORT void tavern_notice_seen(struct data_path *path)
{
    wake_seen(&path->notice);
}

EXPORT int tavern_take_control(struct data_path *path, double now, struct control_packet *packet, uint8_t *data)
{
    return control_take(path->control, now, packet, data);
}

EXPORT struct link *tavern_open_link(struct data_path *path, uint32_t id)
{
    return streams_open_link(&path->streams, id);
}

EXPORT void tavern_close_link(struct data_path *path, struct link *link)
{
    streams_close_link(&path->streams, link);
}

EXPORT void tavern_link_taken(struct link *link, uint64_t size)
{
    atomic_fetch_sub(&link->media_waiting, (int_fast64_t)size);
}

EXPORT size_t tavern_take_events(struct data_path *path, uint8_t *to, size_t room)
{
    return records_take_some(&path->streams.events, to, room);
}

static void read_counters(uint64_t *to, const uint64_t *counters, size_t count)
{
    for (size_t at = 0; at < count; at++)
        to[at] = __atomic_load_n(&counters[at], __ATOMIC_RELAXED);
}

static void add_port_drops(struct node *node, void *context)
{
    uint64_t *drops = context;
    drops[DROP_RECEIVE_BUFFER_FULL] += kernel_drops(CONTAINER(node, struct port, node)->fd);
}

EXPORT void tavern_statistics(struct data_path *path, struct traffic *traffic, uint64_t *drops, uint64_t *challenges)
{
    read_counters(challenges, &path->core->challenges, 1);
    read_counters((uint64_t *)traffic, (uint64_t *)&path->core->traffic, sizeof *traffic / sizeof(uint64_t));
    read_counters(drops, path->core->drops, DROP_COUNT);
    drops[DROP_CONTROL_QUEUE_FULL] += control_dropped(path->control);
    uint64_t closed;
    read_counters(&closed, &path->closed_drops, 1);
    drops[DROP_RECEIVE_BUFFER_FULL] += closed;
    for (uint32_t at = 0; at < path->listener_count; at++)
        drops[DROP_RECEIVE_BUFFER_FULL] += kernel_drops(path->listeners[at].fd);
    map_each(&path->core->ports, add_port_drops, drops); /* which nobody changes while the thread runs */
}
