#include "core.h"

#include <stdlib.h>

enum {
    MAX_PAYLOAD = 65400, /* more does not fit into a datagram once it is a Data indication */
    /* What a client may ask of the control side at once (turn/forwarding.py says why). */
    MAX_CONTROL_SIZE = 2048,
    MAX_CONTROL_SIZE_WITHOUT_FLOW = 1024,
};

static void dropped(struct core *core, struct output *output, enum drop reason)
{
    count_up(&core->drops[reason], 1);
    output->kind = OUT_DROPPED;
}

/* Whether a limit on transfer drops the packet, which is then counted. */
static bool is_over(struct core *core, struct flow *flow, size_t payload_size, double now, bool leaves)
{
    if (!core->meter.is_limiting)
        return false;
    enum drop refusal = meter_refusal(&core->meter, flow->account, payload_size, now, leaves);
    if (refusal == DROP_COUNT)
        return false;
    count_up(&core->drops[refusal], 1);
    return true;
}

static void next_transaction(struct core *core, uint8_t *transaction)
{
    if (core->fixed_transaction) {
        memcpy(transaction, core->transaction, 12);
        return;
    }
    /* xorshift128+: an indication's transaction id answers nothing and need not be unguessable (RFC 8489 §5). */
    uint64_t one = core->random[0], two = core->random[1];
    core->random[0] = two;
    one ^= one << 23;
    core->random[1] = one ^ two ^ (one >> 18) ^ (two >> 5);
    uint64_t first = core->random[1] + two, second = core->random[0];
    memcpy(transaction, &first, 8);
    memcpy(transaction + 8, &second, 4);
}

static void count_from_client(struct core *core, struct flow *flow, size_t size)
{
    flow->traffic.packets_from_clients++;
    flow->traffic.bytes_from_clients += size;
    count_up(&core->traffic.packets_from_clients, 1);
    count_up(&core->traffic.bytes_from_clients, size);
}

static void count_to_client(struct core *core, struct flow *flow, size_t size)
{
    flow->traffic.packets_to_clients++;
    flow->traffic.bytes_to_clients += size;
    count_up(&core->traffic.packets_to_clients, 1);
    count_up(&core->traffic.bytes_to_clients, size);
}

static void count_handed_over(struct core *core, struct flow *flow, size_t size)
{
    flow->traffic.packets_handed_over++;
    flow->traffic.bytes_handed_over += size;
    count_up(&core->traffic.packets_handed_over, 1);
    count_up(&core->traffic.bytes_handed_over, size);
}

/* The peer, known from now on, if its permission lives; else why not. */
static struct peer *permitted(struct core *core, struct flow *flow, const struct address *address, double now,
                              enum drop *reason)
{
    struct peer *peer = peer_find(flow, address);
    if (peer != NULL && peer->permission->expires_at > now)
        return peer;
    struct permission *permission = permission_find(flow, address);
    *reason = DROP_NO_PERMISSION;
    if (permission == NULL || permission->expires_at <= now || is_listener(core, address, permission))
        return NULL;
    peer = peer_know(core, flow, address);
    if (peer == NULL) {
        *reason = DROP_PEER_OF_ANOTHER;
        return NULL;
    }
    peer_permit(peer, permission);
    return peer;
}

/* Whether what comes from our own IP address is of a flow that this one is with, or is allowed there. */
static bool may_come(const struct core *core, const struct flow *flow, const struct peer *peer,
                     const struct flow *source)
{
    if (source == NULL) {
        if (port_at(core, &peer->address) != NULL)
            return false; /* between two allocations packets never take the wire */
        source = flow_at(core, &peer->address);
        if (source == NULL)
            return !peer->permission->relayed_only;
    }
    return source != flow && flow_reaches(flow, source);
}

/* `source`: the flow that hands it over; NULL for what came by the wire. */
static void from_peer(struct core *core, struct flow *flow, uint8_t *data, size_t size, const struct address *address,
                      const struct flow *source, double now, struct output *output)
{
    enum drop reason;
    struct peer *peer = permitted(core, flow, address, now, &reason);
    if (peer == NULL)
        return dropped(core, output, reason);
    if (peer->ours && !may_come(core, flow, peer, source))
        return dropped(core, output, DROP_NO_RELAYED_PEER);
    struct permission *permission = peer->permission;
    if (permission->claim != NULL && source == NULL && flow_at(core, address) == NULL &&
        claim_is_proven_by(core->checks, permission->claim, data, size)) {
        /* By who is there himself, not by another flow behind the same address. */
        free(permission->claim);
        permission->claim = NULL;
    }
    if (size > MAX_PAYLOAD)
        return dropped(core, output, DROP_MALFORMED);
    output->kind = OUT_DROPPED;
    if (is_over(core, flow, size, now, true))
        return;
    if (peer->channel_expires_at > now) {
        write_16(data - 4, peer->number);
        write_16(data - 2, (unsigned)size);
        output->data = data - CHANNEL_HEADER_SIZE;
        output->size = size + CHANNEL_HEADER_SIZE;
    } else {
        uint8_t transaction[12];
        next_transaction(core, transaction);
        output->data = stun_frame_data(data, size, address, transaction, &output->size);
    }
    count_to_client(core, flow, size);
    output->kind = OUT_TO_CLIENT;
    output->flow = flow;
}

void core_from_peer(struct core *core, struct flow *flow, uint8_t *data, size_t size, const struct address *peer,
                    double now, struct output *output)
{
    from_peer(core, flow, data, size, peer, NULL, now, output);
}

void core_from_shared(struct core *core, struct port *port, uint8_t *data, size_t size, const struct address *address,
                      double now, struct output *output)
{
    if (port_at(core, address) != NULL || flow_at(core, address) != NULL)
        return dropped(core, output, DROP_NO_RELAYED_PEER);
    struct peer *owner = port_owner(port, address);
    struct flow *flow =
        owner != NULL ? owner->flow : shared_choose(core, port, NULL, address, data, size, now);
    if (flow == NULL)
        return dropped(core, output, DROP_UNKNOWN_SOURCE);
    from_peer(core, flow, data, size, address, NULL, now, output);
}

/* The allocation on a shared port that the packet is for, remembered on both sides where a check chose it. */
static struct flow *choose_target(struct core *core, struct flow *flow, struct port *port, const uint8_t *payload,
                                  size_t size, double now)
{
    struct flow *target = shared_pair(core, flow, port);
    struct relayed *source = &flow->relayed[family_index(&port->address)];
    if (target != NULL)
        return target;
    target = shared_choose(core, port, flow, &source->address, payload, size, now);
    if (target == NULL)
        return NULL;
    if (source->port != NULL) {
        const struct flow *other = shared_pair(core, target, source->port);
        if (other != NULL && other != flow)
            return NULL; /* it could not tell the two apart */
        shared_set_pair(target, source->port, flow);
    }
    shared_set_pair(flow, port, target);
    return target;
}

/* Whether the target, which has a relayed address of its own, means this flow when it sends to its shared one. */
static bool is_paired_back(struct core *core, struct flow *flow, struct flow *target, struct relayed *source,
                           double now)
{
    const struct flow *other = shared_pair(core, target, source->port);
    if (other != NULL)
        return other == flow;
    const struct permission *permission = permission_find(target, &source->address);
    if (permission != NULL && permission->expires_at > now)
        shared_set_pair(target, source->port, flow);
    return true;
}

/* The peer's IP address is the relay's own: a live flow, or something that the operator allows. */
static void to_us(struct core *core, struct flow *flow, struct peer *peer, uint8_t *payload, size_t size,
                  bool relayed_only, double now, struct output *output)
{
    struct relayed *source = &flow->relayed[family_index(&peer->address)];
    struct port *port = port_at(core, &peer->address);
    struct flow *target;
    if (!source->present)
        return dropped(core, output, DROP_NO_RELAYED_PEER);
    if (port != NULL) {
        target = choose_target(core, flow, port, payload, size, now);
        if (target == NULL)
            return dropped(core, output, DROP_UNKNOWN_SOURCE);
    } else {
        target = flow_at(core, &peer->address);
        if (target == NULL && relayed_only)
            return dropped(core, output, DROP_NO_RELAYED_PEER);
    }
    if (target == flow || (target != NULL && !flow_reaches(flow, target)))
        return dropped(core, output, DROP_NO_RELAYED_PEER);
    if (target != NULL && port == NULL && source->port != NULL && !is_paired_back(core, flow, target, source, now))
        return dropped(core, output, DROP_UNKNOWN_SOURCE);
    /* It may have been a flow's when it became known, and is an outside peer by now: whose is decided now. */
    if (target == NULL && source->port != NULL && !peer_own(peer))
        return dropped(core, output, DROP_PEER_OF_ANOTHER);
    const struct claim *claim = peer->permission->claim;
    if (target == NULL && claim != NULL && !claim_may_leave(core->checks, claim, payload, size, now))
        return dropped(core, output, DROP_UNPROVEN_PEER);
    output->kind = OUT_DROPPED;
    if (is_over(core, flow, size, now, target == NULL))
        return;
    count_from_client(core, flow, size);
    if (target != NULL) {
        count_handed_over(core, flow, size);
        from_peer(core, target, payload, size, &source->address, flow, now, output);
        return;
    }
    output->kind = OUT_TO_PEER;
    output->flow = flow;
    output->data = payload;
    output->size = size;
    output->peer = peer->address;
}

/* To a peer that the client is permitted to send to. */
static void to_peer(struct core *core, struct flow *flow, struct peer *peer, uint8_t *payload, size_t size,
                    bool relayed_only, double now, struct output *output)
{
    if (peer->ours)
        return to_us(core, flow, peer, payload, size, relayed_only, now, output);
    const struct claim *claim = peer->permission->claim;
    if (claim != NULL && !claim_may_leave(core->checks, claim, payload, size, now))
        return dropped(core, output, DROP_UNPROVEN_PEER);
    output->kind = OUT_DROPPED;
    if (is_over(core, flow, size, now, true))
        return;
    count_from_client(core, flow, size);
    output->kind = OUT_TO_PEER;
    output->flow = flow;
    output->data = payload;
    output->size = size;
    output->peer = peer->address;
}

static void channel_data(struct core *core, const struct client *client, uint8_t *data, size_t size, double now,
                         struct output *output)
{
    struct flow *flow = flow_of_client(core, client);
    if (flow == NULL)
        return dropped(core, output, DROP_NO_FLOW);
    struct peer *peer = channel_find(flow, read_16(data));
    if (peer == NULL || peer->channel_expires_at <= now)
        return dropped(core, output, DROP_NO_CHANNEL);
    size_t payload_size = read_16(data + 2);
    if (payload_size > size - CHANNEL_HEADER_SIZE)
        return dropped(core, output, DROP_MALFORMED);
    shared_learn(core, flow, data + CHANNEL_HEADER_SIZE, payload_size);
    to_peer(core, flow, peer, data + CHANNEL_HEADER_SIZE, payload_size, peer->channel_relayed_only, now, output);
}

static void send_indication(struct core *core, const struct client *client, uint8_t *data, size_t size, double now,
                            struct output *output)
{
    struct send_indication read;
    struct flow *flow = flow_of_client(core, client);
    if (flow == NULL)
        return dropped(core, output, DROP_NO_FLOW);
    if (!stun_read_send(data, size, &read))
        return dropped(core, output, DROP_MALFORMED);
    enum drop reason;
    const struct permission *permission = permission_find(flow, &read.peer);
    if (permission != NULL && permission->expires_at > now && !is_listener(core, &read.peer, permission))
        shared_learn(core, flow, read.payload, read.payload_size);
    struct peer *peer = permitted(core, flow, &read.peer, now, &reason);
    if (peer == NULL)
        return dropped(core, output, reason);
    to_peer(core, flow, peer, read.payload, read.payload_size, peer->permission->relayed_only, now, output);
    if (read.dont_fragment && output->kind == OUT_TO_PEER)
        output->kind = OUT_UNFRAGMENTED;
}

/* Where a client that has no flow asks for its first one. */
static bool answer_challenge(struct core *core, const struct client *client, uint8_t *data, size_t size, double now,
                             struct output *output)
{
    uint8_t *answer = data - HEADROOM;
    if (flow_of_client(core, client) != NULL ||
        !challenge_answer(core->challenge, data, size, &client->address, now, answer, &output->size))
        return false;
    count_up(&core->challenges, 1);
    output->kind = OUT_REPLY;
    output->data = answer;
    return true;
}

void core_from_client(struct core *core, const struct client *client, uint8_t *data, size_t size, double now,
                      bool may_reply, struct output *output)
{
    if (size < CHANNEL_HEADER_SIZE)
        return dropped(core, output, DROP_MALFORMED);
    if (data[0] >= 0x40 && data[0] <= 0x7F)
        return channel_data(core, client, data, size, now, output);
    if (data[0] > 0x3F || size < STUN_HEADER_SIZE || !stun_has_cookie(data))
        return dropped(core, output, DROP_MALFORMED);
    if (read_16(data) == SEND_INDICATION)
        return send_indication(core, client, data, size, now, output);
    if (may_reply && stun_is_plain_binding(data, size)) {
        output->kind = OUT_REPLY;
        output->data = data - STUN_HEADER_SIZE - 24; /* before the request, which it is made of */
        output->size = stun_binding_answer(data, &client->address, output->data);
        return;
    }
    if (may_reply && core->challenge != NULL && answer_challenge(core, client, data, size, now, output))
        return;
    if (size > MAX_CONTROL_SIZE || (size > MAX_CONTROL_SIZE_WITHOUT_FLOW && flow_of_client(core, client) == NULL))
        return dropped(core, output, DROP_TOO_LARGE);
    output->kind = OUT_CONTROL;
}

void core_from_icmp(struct core *core, struct flow *flow, const struct address *peer, unsigned type, unsigned code,
                    uint32_t mtu, double now, uint8_t *room, struct output *output)
{
    uint8_t transaction[12];
    next_transaction(core, transaction);
    output->kind = OUT_DROPPED;
    size_t size = stun_frame_icmp(room, peer, transaction, type, code, mtu);
    if (size == 0)
        return;
    const struct permission *permission = permission_find(flow, peer);
    /* To our own addresses nothing left that ICMP could answer: it is forged. */
    if (permission == NULL || permission->expires_at <= now || permission->relayed_only)
        return dropped(core, output, DROP_NO_PERMISSION);
    output->kind = OUT_TO_CLIENT;
    output->flow = flow;
    output->data = room;
    output->size = size;
}
