#include "loop.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_COMMANDS = 2048 }; /* at once: a member that leaves may end 57,000 permissions of the others */

struct open_socket *socket_entry(struct data_path *path, int fd)
{
    if ((uint32_t)fd >= path->socket_count) {
        uint32_t count = 2 * (uint32_t)fd + 64;
        path->sockets = reallocate(path->sockets, count * sizeof *path->sockets);
        memset(path->sockets + path->socket_count, 0, (count - path->socket_count) * sizeof *path->sockets);
        path->socket_count = count;
    }
    return &path->sockets[fd];
}

uint64_t kernel_drops(int fd)
{
    uint32_t counters[9] = {0};
    socklen_t size = sizeof counters;
    return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, counters, &size) < 0 || size < sizeof counters ? 0 : counters[8];
}

static void close_relay(struct data_path *path, int fd)
{
    if (fd < 0)
        return;
    count_up(&path->closed_drops, kernel_drops(fd));
    memset(socket_entry(path, fd), 0, sizeof *path->sockets);
    close(fd); /* and with it what epoll knew; an event of this turn is of a generation that is not found any more */
}

/* Of two flows with one socket, the first that goes would close it for the other. */
static bool is_free_socket(struct data_path *path, int fd)
{
    return fcntl(fd, F_GETFD) >= 0 && socket_entry(path, fd)->kind == UNUSED;
}

static void added(struct data_path *path, const struct effect *effect)
{
    struct relayed *relayed = &effect->flow->relayed[effect->added_index];
    if (relayed->port != NULL)
        return;
    if (!is_free_socket(path, relayed->fd)) {
        relayed->fd = -1; /* nobody's, or another one's to close */
        path->failed = true; /* our own bug */
        return;
    }
    *socket_entry(path, relayed->fd) = (struct open_socket){.generation = effect->generation,
                                                            .kind = RELAY,
                                                            .at_once = 1,
                                                            .flow = effect->flow};
}

/* Answers are short (MAX_CONTROL_SIZE bounds what they answer), and the largest datagram fits. */
static void send_answer(struct data_path *path, const struct effect *effect)
{
    if (effect->size > MAX_DATAGRAM || effect->client.listener >= path->listener_count)
        return;
    uint8_t *data = take_slot(path);
    memcpy(data, effect->data, effect->size);
    send_to_client(path, &effect->client, data, effect->size);
}

static void from_stream(struct data_path *path, const struct effect *effect)
{
    const uint8_t *at = effect->data, *end = effect->data + effect->size;
    const uint8_t *counted = at;
    struct client client = {.link = effect->link};
    for (at += sizeof(uint32_t); at + sizeof(uint32_t) <= end;) {
        uint32_t size;
        memcpy(&size, at, sizeof size);
        at += sizeof size;
        if (size > (size_t)(end - at) || size > MAX_FRAME) {
            path->failed = true;
            return;
        }
        uint8_t *data = take_slot(path);
        memcpy(data, at, size);
        at += size;
        struct output output;
        core_from_client(path->core, &client, data, size, path->now, false, &output);
        act(path, &output);
    }
    if (effect->size >= sizeof(uint32_t))
        streams_put(&path->streams, effect->link, STREAM_TOOK, counted, sizeof(uint32_t));
    path->tell = true;
}

static void to_stream(struct data_path *path, const struct effect *effect)
{
    if (effect->size < 1)
        return;
    streams_put(&path->streams, effect->link, effect->data[0] ? STREAM_END : STREAM_ANSWER, effect->data + 1,
                effect->size - 1);
    path->tell = true;
}

static void execute(struct data_path *path, const uint8_t *command, size_t size)
{
    struct effect effect;
    /* What was decided before leaves by the sockets that it was decided for. */
    if (path->to_peers_count > 0)
        flush(path);
    if (!core_execute(path->core, command, size, &effect)) {
        path->failed = true; /* the two sides do not agree on what a command is */
        return;
    }
    switch (effect.kind) {
    case EFFECT_ADDED:
        return added(path, &effect);
    case EFFECT_REMOVED:
        close_relay(path, effect.fds[0]);
        return close_relay(path, effect.fds[1]);
    case EFFECT_SEND:
        return send_answer(path, &effect);
    case EFFECT_STREAM:
        return from_stream(path, &effect);
    case EFFECT_TO_STREAM:
        return to_stream(path, &effect);
    case EFFECT_NONE:
        return;
    }
}

bool execute_commands(struct data_path *path)
{
    for (int left = MAX_COMMANDS; left > 0 && !path->failed; left--) {
        if (path->executed == path->executing_size) {
            free(path->executing);
            path->executed = path->executing_size = 0;
            path->executing = records_take_all(&path->commands, &path->executing_size);
            if (path->executing == NULL)
                return false;
        }
        uint32_t size;
        memcpy(&size, path->executing + path->executed, sizeof size);
        execute(path, path->executing + path->executed + sizeof size, size);
        path->executed += sizeof size + size;
    }
    return true;
}
