#include "queues.h"

#include <stdlib.h>

/* The figures and their reasons are control_queue.py's. */
enum {
    MAX_BYTES = 1 << 20, /* of clients with a flow, and again of those without */
    PACKET_SIZE = 500,   /* bytes that a packet counts for beyond its data */
    MAX_SHARE = 128,     /* packets of one source */
    SHARES = 1024,
    OTHERS_TURN = 4, /* each fourth packet is of a client without a flow */
};
static const double MAX_AGE_S = 0.5;

struct waiting {
    struct waiting *next;
    struct control_packet packet;
    uint16_t share;
    uint8_t data[];
};

struct lane {
    struct waiting *first, **last;
    size_t bytes;
    uint8_t by_source[SHARES];
};

struct control {
    pthread_mutex_t lock;
    struct lane with_flow, without_flow;
    uint64_t dropped;
    unsigned turn;
};

struct control *control_open(void)
{
    struct control *control = allocate(sizeof *control);
    pthread_mutex_init(&control->lock, NULL);
    control->with_flow.last = &control->with_flow.first;
    control->without_flow.last = &control->without_flow.first;
    return control;
}

static struct waiting *lane_take(struct lane *lane)
{
    struct waiting *taken = lane->first;
    lane->first = taken->next;
    if (lane->first == NULL)
        lane->last = &lane->first;
    lane->bytes -= taken->packet.size + PACKET_SIZE;
    lane->by_source[taken->share]--;
    return taken;
}

void control_close(struct control *control)
{
    while (control->with_flow.first != NULL)
        free(lane_take(&control->with_flow));
    while (control->without_flow.first != NULL)
        free(lane_take(&control->without_flow));
    pthread_mutex_destroy(&control->lock);
    free(control);
}

/* By IPv4 address or IPv6 /64. */
static uint16_t share_of(const struct client *client)
{
    return (uint16_t)(hash_bytes(client->address.ip, 8) % SHARES);
}

bool control_put(struct control *control, const struct client *client, const uint8_t *data, size_t size, double now,
                 bool has_flow)
{
    struct lane *lane = has_flow ? &control->with_flow : &control->without_flow;
    uint16_t share = share_of(client);
    pthread_mutex_lock(&control->lock);
    bool fits = lane->bytes + size + PACKET_SIZE <= MAX_BYTES && lane->by_source[share] < MAX_SHARE;
    if (fits) {
        struct waiting *waiting = allocate(sizeof *waiting + size);
        waiting->packet.client = *client;
        waiting->packet.received_at = now;
        waiting->packet.size = (uint32_t)size;
        waiting->share = share;
        memcpy(waiting->data, data, size);
        lane->bytes += size + PACKET_SIZE;
        lane->by_source[share]++;
        *lane->last = waiting;
        lane->last = &waiting->next;
    } else {
        control->dropped++;
    }
    pthread_mutex_unlock(&control->lock);
    return fits;
}

static struct lane *next_lane(struct control *control)
{
    bool others_turn = ++control->turn % OTHERS_TURN == 0;
    struct lane *first = others_turn ? &control->without_flow : &control->with_flow;
    struct lane *second = others_turn ? &control->with_flow : &control->without_flow;
    return first->first != NULL ? first : second->first != NULL ? second : NULL;
}

bool control_take(struct control *control, double now, struct control_packet *packet, uint8_t *data)
{
    bool found = false;
    struct lane *lane;
    pthread_mutex_lock(&control->lock);
    while (!found && (lane = next_lane(control)) != NULL) {
        struct waiting *taken = lane_take(lane);
        found = now - taken->packet.received_at <= MAX_AGE_S;
        if (found) {
            *packet = taken->packet;
            memcpy(data, taken->data, taken->packet.size);
        } else {
            control->dropped++;
        }
        free(taken);
    }
    pthread_mutex_unlock(&control->lock);
    return found;
}

uint64_t control_dropped(struct control *control)
{
    pthread_mutex_lock(&control->lock);
    uint64_t dropped = control->dropped;
    pthread_mutex_unlock(&control->lock);
    return dropped;
}
