#include "commands.h"

#include "core.h"

#include <stdlib.h>
#include <sys/random.h>

/* What is left of a command; `failed` once more was read than there is. */
struct reader {
    const uint8_t *data;
    size_t size;
    bool failed;
};

static void read_into(struct reader *reader, void *to, size_t size)
{
    if (size > reader->size) {
        reader->failed = true;
        memset(to, 0, size);
        return;
    }
    memcpy(to, reader->data, size);
    reader->data += size;
    reader->size -= size;
}

#define READER(name, type)                                                                                             \
    static type name(struct reader *reader)                                                                            \
    {                                                                                                                  \
        type value;                                                                                                    \
        read_into(reader, &value, sizeof value);                                                                       \
        return value;                                                                                                  \
    }

READER(read_u8, uint8_t)
READER(read_u16, uint16_t)
READER(read_u32, uint32_t)
READER(read_i32, int32_t)
READER(read_u64, uint64_t)
READER(read_double, double)
READER(read_address, struct address)
READER(read_client, struct client)

static void read_circles(struct reader *reader, struct flow *flow)
{
    int32_t count = read_i32(reader);
    free(flow->circles);
    flow->circles = NULL;
    flow->circle_count = 0;
    flow->has_circles = count >= 0;
    if (count <= 0)
        return;
    if ((size_t)count > reader->size / sizeof *flow->circles) {
        reader->failed = true;
        return;
    }
    flow->circles = allocate((size_t)count * sizeof *flow->circles);
    flow->circle_count = (uint32_t)count;
    read_into(reader, flow->circles, (size_t)count * sizeof *flow->circles);
}

static bool set_relayed(struct core *core, struct flow *flow, struct reader *reader, struct effect *effect)
{
    struct address address = read_address(reader);
    bool shared = read_u8(reader);
    int fd = read_i32(reader);
    uint32_t generation = read_u32(reader);
    struct relayed *relayed = &flow->relayed[family_index(&address)];
    struct port *port = shared ? port_at(core, &address) : NULL;
    if (reader->failed || relayed->present || (shared && port == NULL))
        return false;
    relayed->address = address;
    relayed->present = true;
    relayed->port = port;
    relayed->fd = shared ? port->fd : fd;
    if (shared)
        fragments_link(core, flow, family_index(&address));
    else
        map_add(&core->relayed, &relayed->node, address_hash(&address));
    effect->kind = EFFECT_ADDED;
    effect->flow = flow;
    effect->added_index = family_index(&address);
    effect->generation = generation;
    return true;
}

/* The descriptor that the shell closes; -1 where the port is shared. */
static int drop_relayed(struct core *core, struct relayed *relayed)
{
    int fd = relayed->port == NULL ? relayed->fd : -1;
    if (relayed->port == NULL)
        map_remove(&core->relayed, &relayed->node);
    memset(relayed, 0, sizeof *relayed);
    return fd;
}

static bool add_flow(struct core *core, struct reader *reader, struct effect *effect)
{
    struct flow *flow = allocate(sizeof *flow);
    flow->id = read_u64(reader);
    flow->client = read_client(reader);
    flow->user = read_u64(reader);
    read_circles(reader, flow);
    if (flow_find(core, flow->id) != NULL || flow_of_client(core, &flow->client) != NULL ||
        !set_relayed(core, flow, reader, effect)) {
        flow_free(core, flow);
        return false;
    }
    flow->account = meter_join(&core->meter, flow->user);
    map_add(&core->flows, &flow->by_id, hash_number(flow->id));
    map_add(&core->clients, &flow->by_client, hash_bytes(&flow->client, sizeof flow->client));
    return true;
}

static bool add_relayed(struct core *core, struct flow *flow, struct reader *reader, struct effect *effect)
{
    if (flow != NULL)
        return set_relayed(core, flow, reader, effect);
    read_address(reader);
    bool shared = read_u8(reader);
    int fd = read_i32(reader);
    effect->generation = read_u32(reader);
    effect->kind = EFFECT_REMOVED;
    effect->fds[0] = shared ? -1 : fd;
    return !reader->failed;
}

static void unbind_family(struct node *node, void *context)
{
    const struct relayed *relayed = context;
    struct peer *peer = CONTAINER(node, struct peer, channel_node);
    if (peer->address.family == relayed->address.family)
        channel_unbind(peer->flow, peer);
}

struct family {
    struct flow *flow;
    uint16_t family;
};

static void revoke_family(struct node *node, void *context)
{
    const struct family *of = context;
    struct permission *permission = CONTAINER(node, struct permission, node);
    if (permission->host.family == of->family)
        permission_revoke(of->flow, permission);
}

static void forget_family(struct node *node, void *context)
{
    const struct family *of = context;
    struct peer *peer = CONTAINER(node, struct peer, node);
    if (peer->address.family == of->family)
        peer_forget(of->flow, peer);
}

static void remove_relayed(struct core *core, struct flow *flow, const struct address *address, struct effect *effect)
{
    struct relayed *relayed = &flow->relayed[family_index(address)];
    struct family of = {flow, address->family};
    if (!relayed->present || !address_equal(&relayed->address, address))
        return;
    map_each(&flow->channels, unbind_family, relayed);
    map_each(&flow->permissions, revoke_family, &of);
    map_each(&flow->peers, forget_family, &of);
    fragments_unlink(core, flow, family_index(address));
    effect->kind = EFFECT_REMOVED;
    effect->fds[0] = drop_relayed(core, relayed);
}

static void remove_flow(struct core *core, struct flow *flow, struct effect *effect)
{
    effect->kind = EFFECT_REMOVED;
    map_remove(&core->flows, &flow->by_id);
    map_remove(&core->clients, &flow->by_client);
    meter_leave(&core->meter, flow->account);
    for (int at = 0; at < 2; at++) {
        struct relayed *relayed = &flow->relayed[at];
        if (!relayed->present || relayed->port != NULL)
            continue;
        effect->fds[at] = relayed->fd;
        map_remove(&core->relayed, &relayed->node);
    }
    flow_free(core, flow); /* its peers give back what they own of its ports */
}

/* What the flow knows of peers at a host. */
struct host {
    struct flow *flow;
    struct address address;
};

static bool is_of_host(const struct address *address, const struct host *of)
{
    struct address host = address_host(*address);
    return address_equal(&host, &of->address);
}

static void unbind_of_host(struct node *node, void *context)
{
    const struct host *of = context;
    struct peer *peer = CONTAINER(node, struct peer, channel_node);
    if (is_of_host(&peer->address, of))
        channel_unbind(of->flow, peer);
}

static void forget_of_host(struct node *node, void *context)
{
    const struct host *of = context;
    struct peer *peer = CONTAINER(node, struct peer, node);
    if (is_of_host(&peer->address, of))
        peer_forget(of->flow, peer);
}

static void forget_host(struct node *node, void *context)
{
    struct host of = {CONTAINER(node, struct flow, by_id), *(const struct address *)context};
    map_each(&of.flow->channels, unbind_of_host, &of);
    struct permission *permission = permission_find(of.flow, &of.address);
    if (permission != NULL)
        permission_revoke(of.flow, permission);
    map_each(&of.flow->peers, forget_of_host, &of);
}

static bool add_own_host(struct core *core, struct reader *reader)
{
    bool shared = read_u8(reader);
    struct address host = read_address(reader);
    if (reader->failed)
        return false;
    if (!is_own_host(core, &host)) {
        if (core->own_host_count == MAX_OWN_HOSTS)
            return false;
        map_each(&core->flows, forget_host, &host);
        core->own_hosts[core->own_host_count++] = host;
    }
    if (shared)
        core_name_ports(core, &host);
    return true;
}

static bool remove_own_host(struct core *core, struct reader *reader)
{
    struct address host = read_address(reader);
    if (reader->failed)
        return false;
    map_each(&core->flows, forget_host, &host);
    core_unname_ports(core, &host);
    for (uint32_t at = 0; at < core->own_host_count; at++)
        if (address_equal(&core->own_hosts[at], &host))
            core->own_hosts[at--] = core->own_hosts[--core->own_host_count];
    return true;
}

static void forget_listeners(struct core *core, struct flow *flow, struct address host)
{
    for (uint32_t at = 0; at < core->listener_port_count; at++) {
        host.port = core->listener_ports[at];
        struct peer *peer = peer_find(flow, &host);
        if (peer != NULL)
            peer_forget(flow, peer);
    }
}

static void set_permission(struct core *core, struct flow *flow, struct reader *reader)
{
    uint64_t targets[MAX_CLAIM_TARGETS] = {0};
    struct address host = read_address(reader);
    double expires_at = read_double(reader);
    bool relayed_only = read_u8(reader), own = read_u8(reader), claimed = read_u8(reader);
    unsigned count = read_u8(reader);
    read_into(reader, targets, (count < MAX_CLAIM_TARGETS ? count : MAX_CLAIM_TARGETS) * sizeof *targets);
    if (reader->failed)
        return;
    struct permission *permission = permission_find(flow, &host);
    if (permission == NULL) {
        permission = allocate(sizeof *permission);
        permission->host = host;
        permission->installed = true;
        permission->own = own;
        map_add(&flow->permissions, &permission->node, address_hash(&host));
    }
    permission->expires_at = expires_at;
    if (claimed != permission->claimed) {
        permission->claimed = claimed;
        free(permission->claim);
        permission->claim = claimed ? claim_new(core->checks, flow->user, targets, count) : NULL;
    }
    permission->relayed_only = relayed_only;
    if (own && !permission->own)
        forget_listeners(core, flow, host);
    permission->own = own;
}

static void bind_channel(struct core *core, struct flow *flow, struct reader *reader)
{
    uint16_t number = read_u16(reader);
    struct address address = read_address(reader);
    double expires_at = read_double(reader);
    bool relayed_only = read_u8(reader);
    struct permission *permission = permission_find(flow, &address);
    if (reader->failed || number == 0 || is_listener(core, &address, permission ? permission : &core->never))
        return;
    struct peer *peer = peer_is_anothers(core, flow, &address) ? NULL : peer_know(core, flow, &address);
    if (peer == NULL)
        return;
    struct peer *bound = channel_find(flow, number);
    if (bound != peer) {
        if (bound != NULL)
            channel_unbind(flow, bound);
        if (peer->number != 0) {
            map_remove(&flow->channels, &peer->channel_node);
            if (peer->permission->expires_at == 0.0)
                peer_disown(peer); /* only its other number kept it */
        }
        peer->number = number;
        map_add(&flow->channels, &peer->channel_node, number);
        peer_own_if_outside(core, peer); /* it may have been a flow's when it became known */
    }
    peer->channel_expires_at = expires_at;
    peer->channel_relayed_only = relayed_only;
    if (permission != NULL)
        peer_permit(peer, permission);
}

static void learn_peer(struct core *core, struct flow *flow, const struct address *address)
{
    struct permission *permission = permission_find(flow, address);
    if (permission == NULL || is_listener(core, address, permission) || peer_is_anothers(core, flow, address))
        return;
    struct peer *peer = peer_know(core, flow, address);
    if (peer != NULL)
        peer_permit(peer, permission);
}

static bool execute_for_flow(struct core *core, uint8_t type, struct reader *reader, struct effect *effect)
{
    struct flow *flow = flow_find(core, read_u64(reader));
    if (type < ADD_RELAYED || type > LEARN_PEER)
        return false;
    if (type == ADD_RELAYED)
        return add_relayed(core, flow, reader, effect);
    if (flow == NULL)
        return !reader->failed;
    struct address address;
    if (type == REMOVE_FLOW) {
        remove_flow(core, flow, effect);
    } else if (type == SET_CIRCLES) {
        read_circles(reader, flow);
    } else if (type == SET_PERMISSION) {
        set_permission(core, flow, reader);
    } else if (type == BIND_CHANNEL) {
        bind_channel(core, flow, reader);
    } else if (type == UNBIND_CHANNEL) {
        struct peer *peer = channel_find(flow, read_u16(reader));
        if (peer != NULL)
            channel_unbind(flow, peer);
    } else {
        address = read_address(reader);
        if (reader->failed)
            return false;
        if (type == REMOVE_RELAYED) {
            remove_relayed(core, flow, &address, effect);
        } else if (type == LEARN_PEER) {
            learn_peer(core, flow, &address);
        } else if (type == REVOKE_PERMISSION) {
            struct permission *permission = permission_find(flow, &address);
            if (permission != NULL)
                permission_revoke(flow, permission);
        } else {
            return false;
        }
    }
    return !reader->failed;
}

bool core_execute(struct core *core, const uint8_t *command, size_t size, struct effect *effect)
{
    struct reader reader = {command, size, false};
    memset(effect, 0, sizeof *effect);
    effect->fds[0] = effect->fds[1] = -1;
    uint8_t type = read_u8(&reader);
    switch (type) {
    case ADD_FLOW:
        return add_flow(core, &reader, effect);
    case SET_TRANSFER:
        meter_set_budget_spent(&core->meter, !read_u8(&reader));
        return !reader.failed;
    case ADD_OWN_HOST:
        return add_own_host(core, &reader);
    case REMOVE_OWN_HOST:
        return remove_own_host(core, &reader);
    case SEND_TO_CLIENT:
        effect->kind = EFFECT_SEND;
        effect->client = read_client(&reader);
        break;
    case FROM_STREAM:
        effect->kind = EFFECT_STREAM;
        effect->link = read_u32(&reader);
        break;
    case TO_STREAM:
        effect->kind = EFFECT_TO_STREAM;
        effect->link = read_u32(&reader);
        break;
    default:
        return execute_for_flow(core, type, &reader, effect);
    }
    effect->data = reader.data;
    effect->size = (uint32_t)reader.size;
    return !reader.failed;
}

struct core *core_open(const struct core_config *config)
{
    struct core *core = allocate(sizeof *core);
    core->own_host_count = config->own_host_count < MAX_OWN_HOSTS ? config->own_host_count : MAX_OWN_HOSTS;
    memcpy(core->own_hosts, config->own_hosts, core->own_host_count * sizeof *core->own_hosts);
    core->listener_ports = allocate((config->listener_port_count + 1) * sizeof *core->listener_ports);
    memcpy(core->listener_ports, config->listener_ports, config->listener_port_count * sizeof *core->listener_ports);
    core->listener_port_count = config->listener_port_count;
    core->never.relayed_only = true;
    core->never.installed = true;
    core->checks = checks_open();
    if (getrandom(core->random, sizeof core->random, 0) != sizeof core->random) {
        core->random[0] = hash_number(1);
        core->random[1] = hash_number(2);
    }
    meter_open(&core->meter, config->user_bytes_per_s, config->bytes_per_s);
    return core;
}

static void free_flow(struct node *node, void *context)
{
    struct flow *flow = CONTAINER(node, struct flow, by_id);
    struct effect effect = {0};
    remove_flow(context, flow, &effect);
}

static void free_port(struct node *node, void *context)
{
    (void)context;
    free(CONTAINER(node, struct port, node));
}

static void free_port_name(struct node *node, void *context)
{
    (void)context;
    free(CONTAINER(node, struct port_name, node));
}

void core_close(struct core *core)
{
    map_each(&core->flows, free_flow, core);
    map_each(&core->ports, free_port, NULL);
    map_clear(&core->ports);
    map_each(&core->port_names, free_port_name, NULL);
    map_clear(&core->port_names);
    meter_close(&core->meter);
    checks_close(core->checks);
    challenge_close(core->challenge);
    free(core->listener_ports);
    free(core);
}
