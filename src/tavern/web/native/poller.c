/* Reads for all plain WebSockets, and passes messages on that are in order; all else is Python's (web/poller.py). */
#include "export.h"
#include "memory.h"
#include "message.h"
#include "window.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    AT_ONCE = 64,             /* sockets before other tasks have their turn */
    ASKED_FOR = 8,            /* of these, before it is looked whether the turn ends */
    READ_BYTES = 16 * 1024,   /* of one socket at once */
    OUT_BYTES = 66 * 1024,    /* for one receiver at once: any message, with its head */
    EVENTS_BYTES = 256 * 1024, /* beyond, the turn ends: after 8 sockets more at most */
    MAX_MEMBERS = 8,          /* of a channel */
    MAX_CANDIDATES = 256,     /* looked at in one message */
    REMEMBERED = 16,          /* announcements of one connection: its addresses are few, its receivers 7 */
    MAX_HEAD = 4,             /* of a frame that is sent: READ_BYTES takes a length of 16 bits */
};

struct group {
    struct connection *members[MAX_MEMBERS];
    unsigned count;
    struct span tavern, channel;
};

/* That a member was told of an address. Forgotten with either one's place: so is what the relay knows. */
struct announcement {
    uint64_t place, hash;
};

struct connection {
    int fd;
    bool held, blocked;
    uint8_t next_remembered;
    uint64_t number;
    uint64_t turn; /* when it was served last */
    uint64_t place; /* this stay in its group; no other stay of anybody has the number */
    struct group *group;
    struct span from;
    struct window messages;
    struct announcement *remembered; /* REMEMBERED of them, or NULL */
};

struct poller {
    int fd;
    double now;
    uint64_t turn;
    uint32_t passed_on;
    uint8_t *events;
    size_t events_size, events_capacity;
    struct connection *receiver; /* of what is in `out` */
    size_t out_size;
    uint8_t out[OUT_BYTES];
    uint8_t received[READ_BYTES];
    uint8_t unmasked[READ_BYTES];
};

static uint64_t last_place;

static struct span copy_span(const uint8_t *data, size_t size)
{
    uint8_t *copy = allocate(size ? size : 1);
    memcpy(copy, data, size);
    return (struct span){copy, size};
}

static void put_event(struct poller *poller, enum event_kind kind, uint64_t connection, uint64_t other,
                      const void *data, size_t size)
{
    struct event event = {connection, other, kind, (uint32_t)size};
    size_t needed = poller->events_size + sizeof event + size;
    if (needed > poller->events_capacity) {
        poller->events_capacity = 2 * needed;
        poller->events = reallocate(poller->events, poller->events_capacity);
    }
    memcpy(poller->events + poller->events_size, &event, sizeof event);
    if (size)
        memcpy(poller->events + poller->events_size + sizeof event, data, size);
    poller->events_size = needed;
}

/* What is in `out` has left, or Python has it. */
static void flush(struct poller *poller)
{
    struct connection *to = poller->receiver;
    size_t size = poller->out_size;
    poller->receiver = NULL;
    poller->out_size = 0;
    if (!to)
        return;
    ssize_t sent = send(to->fd, poller->out, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == (ssize_t)size)
        return;
    to->blocked = true;
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        put_event(poller, EVENT_BROKEN, to->number, 0, NULL, 0);
        return;
    }
    size_t left = sent < 0 ? 0 : (size_t)sent;
    put_event(poller, EVENT_UNSENT, to->number, left > 0, poller->out + left, size - left);
}

static uint64_t hash_of(struct span text)
{
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a: who makes two addresses collide hides one of his own */
    for (size_t at = 0; at < text.size; at++)
        hash = (hash ^ text.at[at]) * 0x100000001b3;
    return hash;
}

/* Whether the relay has been told so already. */
static bool remember(struct connection *from, const struct connection *to, struct span address)
{
    uint64_t hash = hash_of(address);
    if (!from->remembered)
        from->remembered = allocate(REMEMBERED * sizeof *from->remembered);
    for (unsigned at = 0; at < REMEMBERED; at++)
        if (from->remembered[at].place == to->place && from->remembered[at].hash == hash)
            return true;
    from->remembered[from->next_remembered++ % REMEMBERED] = (struct announcement){to->place, hash};
    return false;
}

static void announce(struct poller *poller, struct connection *from, const struct connection *to, struct span content)
{
    struct span address;
    size_t offset = 0;
    for (unsigned count = 0; count < MAX_CANDIDATES && candidate_next(content, &offset, &address); count++)
        if (!remember(from, to, address))
            put_event(poller, EVENT_ANNOUNCED, from->number, to->number, address.at, address.size);
}

static struct connection *find_target(const struct connection *sender, const struct message *message)
{
    const struct group *group = sender->group;
    if ((message->tavern_id.at && !span_equal(message->tavern_id, group->tavern)) ||
        (message->channel_id.at && !span_equal(message->channel_id, group->channel)))
        return NULL;
    for (unsigned at = 0; at < group->count; at++)
        if (group->members[at] != sender && span_equal(group->members[at]->from, message->target))
            return group->members[at];
    return NULL;
}

/* RFC 6455 section 5.2: the head, in front of `size` bytes at `payload`; its size. */
static size_t put_head(uint8_t *payload, size_t size)
{
    if (size < 126) {
        payload[-2] = 0x81;
        payload[-1] = (uint8_t)size;
        return 2;
    }
    payload[-4] = 0x81;
    payload[-3] = 126;
    payload[-2] = (uint8_t)(size >> 8);
    payload[-1] = (uint8_t)size;
    return 4;
}

/* Whether a message of up to `size` bytes can go to this one now: nothing waits for it, and there is room. */
static bool make_room(struct poller *poller, struct connection *to, size_t size)
{
    if (poller->receiver != to || poller->out_size + MAX_HEAD + size > OUT_BYTES)
        flush(poller);
    return !to->blocked;
}

static void send_message(struct poller *poller, struct connection *to, const struct message *message, struct span from)
{
    poller->receiver = to;
    uint8_t *payload = poller->out + poller->out_size + MAX_HEAD;
    size_t written = message_write(message, from, payload);
    size_t head = put_head(payload, written);
    if (head < MAX_HEAD)
        memmove(payload - MAX_HEAD, payload - head, head + written);
    poller->out_size += head + written;
}

static bool pass_on(struct poller *poller, struct connection *sender, const uint8_t *payload, size_t size)
{
    struct message message;
    if (!message_read(payload, size, &message))
        return false;
    struct connection *target = find_target(sender, &message);
    size_t grown = size + sender->from.size + 64;
    if (!target || grown > UINT16_MAX || !make_room(poller, target, grown))
        return false;
    if (!window_allow(&sender->messages, poller->now))
        return false; /* nothing was counted: Python will refuse it as well */
    announce(poller, sender, target, message.content);
    send_message(poller, target, &message, sender->from);
    poller->passed_on++;
    return true;
}

static void unmask(uint8_t *to, const uint8_t *from, size_t size, const uint8_t *mask)
{
    uint64_t masks, eight;
    size_t at = 0;
    memcpy(&masks, mask, 4);
    memcpy((uint8_t *)&masks + 4, mask, 4);
    for (; at + sizeof eight <= size; at += sizeof eight) {
        memcpy(&eight, from + at, sizeof eight);
        eight ^= masks;
        memcpy(to + at, &eight, sizeof eight);
    }
    for (; at < size; at++)
        to[at] = from[at] ^ mask[at & 3];
}

/* How much of what was received is dealt with: whole text messages that were passed on. */
static size_t pass_on_frames(struct poller *poller, struct connection *sender, const uint8_t *data, size_t size)
{
    size_t done = 0;
    while (size - done >= 6 && sender->group && data[done] == 0x81 && data[done + 1] & 0x80) {
        const uint8_t *mask = data + done + 2;
        size_t length = data[done + 1] & 0x7f;
        if (length == 127)
            break;
        if (length == 126) {
            length = (size_t)data[done + 2] << 8 | data[done + 3];
            mask += 2;
            if (length < 126 || size - done < 8)
                break;
        }
        const uint8_t *payload = mask + 4;
        if (length > (size_t)(data + size - payload))
            break;
        unmask(poller->unmasked, payload, length, mask);
        if (!pass_on(poller, sender, poller->unmasked, length))
            break;
        done = (size_t)(payload + length - data);
    }
    return done;
}

static void serve(struct poller *poller, struct connection *connection)
{
    ssize_t received = recv(connection->fd, poller->received, READ_BYTES, MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    size_t size = received < 0 ? 0 : (size_t)received;
    size_t done = connection->held ? 0 : pass_on_frames(poller, connection, poller->received, size);
    flush(poller);
    if (done == size && size)
        return;
    connection->held = true;
    put_event(poller, EVENT_RECEIVED, connection->number, 0, poller->received + done, size - done);
}

/* Whether more may be ready. The kernel queues whom it has named behind all others that are ready: who is named must
 * be served, or a few who flood would be the first of every turn, and the last ones would never be read. */
static bool serve_some(struct poller *poller)
{
    struct epoll_event ready[ASKED_FOR];
    int count = epoll_wait(poller->fd, ready, ASKED_FOR, 0);
    bool came_round = false;
    for (int at = 0; at < count; at++) {
        struct connection *connection = ready[at].data.ptr;
        if (connection->turn == poller->turn) {
            came_round = true;
            continue;
        }
        connection->turn = poller->turn;
        serve(poller, connection);
    }
    return count == ASKED_FOR && !came_round;
}

EXPORT int tavern_web_abi(void)
{
    return WEB_ABI;
}

EXPORT struct poller *tavern_web_open(void)
{
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return NULL;
    struct poller *poller = allocate(sizeof *poller);
    poller->fd = fd;
    return poller;
}

EXPORT void tavern_web_close(struct poller *poller)
{
    close(poller->fd);
    free(poller->events);
    free(poller);
}

EXPORT int tavern_web_fd(const struct poller *poller)
{
    return poller->fd;
}

EXPORT uint64_t tavern_web_turn(struct poller *poller, double now)
{
    poller->now = now;
    poller->turn++;
    poller->passed_on = 0;
    poller->events_size = 0;
    for (unsigned served = 0; served < AT_ONCE && poller->events_size <= EVENTS_BYTES; served += ASKED_FOR)
        if (!serve_some(poller))
            break;
    return (uint64_t)poller->passed_on << 32 | poller->events_size;
}

EXPORT const uint8_t *tavern_web_events(const struct poller *poller)
{
    return poller->events;
}

EXPORT struct group *tavern_web_open_group(const uint8_t *tavern, size_t tavern_size, const uint8_t *channel,
                                           size_t channel_size)
{
    struct group *group = allocate(sizeof *group);
    group->tavern = copy_span(tavern, tavern_size);
    group->channel = copy_span(channel, channel_size);
    return group;
}

EXPORT void tavern_web_close_group(struct group *group)
{
    free((void *)group->tavern.at);
    free((void *)group->channel.at);
    free(group);
}

EXPORT struct connection *tavern_web_add(int fd, uint64_t number)
{
    struct connection *connection = allocate(sizeof *connection);
    connection->fd = fd;
    connection->number = number;
    connection->held = true;
    return connection;
}

EXPORT void tavern_web_remove(struct poller *poller, struct connection *connection)
{
    if (poller) /* which may be gone */
        tavern_web_listen(poller, connection, 0);
    tavern_web_move(connection, NULL, NULL, 0);
    free(connection->messages.times);
    free(connection);
}

EXPORT int tavern_web_listen(struct poller *poller, struct connection *connection, int wanted)
{
    struct epoll_event wait = {.events = EPOLLIN, .data.ptr = connection};
    return epoll_ctl(poller->fd, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, connection->fd, &wait);
}

EXPORT void tavern_web_hold(struct connection *connection, int held)
{
    connection->held = held != 0;
}

EXPORT void tavern_web_block(struct connection *connection, int blocked)
{
    connection->blocked = blocked != 0;
}

static void leave(struct connection *connection)
{
    struct group *group = connection->group;
    for (unsigned at = 0; at < group->count; at++)
        if (group->members[at] == connection) {
            group->members[at] = group->members[--group->count];
            break;
        }
    connection->group = NULL;
    free((void *)connection->from.at);
    connection->from = (struct span){0};
    free(connection->remembered);
    connection->remembered = NULL;
}

EXPORT int tavern_web_move(struct connection *connection, struct group *group, const uint8_t *from, size_t from_size)
{
    if (connection->group)
        leave(connection);
    if (!group)
        return 1;
    if (group->count == MAX_MEMBERS)
        return 0;
    connection->place = ++last_place;
    connection->from = copy_span(from, from_size);
    connection->group = group;
    group->members[group->count++] = connection;
    return 1;
}

EXPORT void tavern_web_limit(struct connection *connection, uint32_t messages_per_s)
{
    connection->messages.limit = messages_per_s;
}

EXPORT int tavern_web_allow(struct connection *connection, double now)
{
    return window_allow(&connection->messages, now);
}
