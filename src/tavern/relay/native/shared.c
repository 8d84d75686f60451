#include "core.h"

#include <stdlib.h>

/* A flow for each TURN URL and interface of a browser; who has more makes each look dear, and is found by nobody. */
enum { MAX_NAMESAKES = 64 };

static void name_port(struct core *core, struct port *port, const struct address *address)
{
    if (port_at(core, address) != NULL)
        return;
    struct port_name *name = allocate(sizeof *name);
    name->address = *address;
    name->port = port;
    map_add(&core->port_names, &name->node, address_hash(address));
}

struct naming {
    struct core *core;
    struct address host;
};

static void name_at(struct node *node, void *context)
{
    struct naming *naming = context;
    struct port *port = CONTAINER(node, struct port, node);
    struct address address = naming->host;
    if (port->address.family != address.family)
        return;
    address.port = port->address.port;
    name_port(naming->core, port, &address);
}

static void unname_at(struct node *node, void *context)
{
    const struct naming *naming = context;
    struct port_name *name = CONTAINER(node, struct port_name, node);
    struct address host = address_host(name->address);
    if (!address_equal(&host, &naming->host))
        return;
    map_remove(&naming->core->port_names, &name->node);
    free(name);
}

void core_name_ports(struct core *core, const struct address *host)
{
    map_each(&core->ports, name_at, &(struct naming){core, *host});
}

void core_unname_ports(struct core *core, const struct address *host)
{
    map_each(&core->port_names, unname_at, &(struct naming){core, *host});
}

struct port *core_open_port(struct core *core, const struct address *address, int fd)
{
    struct port *port = allocate(sizeof *port);
    port->address = *address;
    port->fd = fd;
    map_add(&core->ports, &port->node, address_hash(address));
    name_port(core, port, address);
    return port;
}

struct part {
    const uint8_t *text;
    size_t size;
};

/* The two parts of a check's USERNAME, around its first colon: the receiver's fragment, and the sender's. */
static bool read_username(const uint8_t *payload, size_t size, struct part *receiver, struct part *sender)
{
    const uint8_t *value;
    size_t value_size;
    if (!stun_is(payload, size, BINDING_REQUEST) || !stun_find(payload, size, USERNAME, &value, &value_size))
        return false;
    const uint8_t *colon = memchr(value, ':', value_size);
    if (colon == NULL)
        return false;
    *receiver = (struct part){value, (size_t)(colon - value)};
    *sender = (struct part){colon + 1, (size_t)(value + value_size - colon - 1)};
    return true;
}

static bool fragment_is(const struct fragment *fragment, const struct part *part)
{
    return fragment->size == part->size && memcmp(fragment->text, part->text, part->size) == 0;
}

static uint64_t fragment_hash(const uint8_t *text, size_t size, const struct port *port)
{
    return hash_bytes(text, size) ^ port->node.hash;
}

static void link_fragment(struct core *core, struct fragment *fragment, int family)
{
    const struct port *port = fragment->flow->relayed[family].port;
    if (port != NULL)
        map_add(&core->fragments, &fragment->node[family], fragment_hash(fragment->text, fragment->size, port));
}

static void unlink_fragment(struct core *core, struct fragment *fragment, int family)
{
    if (fragment->flow->relayed[family].port != NULL)
        map_remove(&core->fragments, &fragment->node[family]);
}

void fragments_link(struct core *core, struct flow *flow, int family)
{
    for (int at = 0; at < MAX_FRAGMENTS && flow->fragments[at] != NULL; at++)
        link_fragment(core, flow->fragments[at], family);
}

void fragments_unlink(struct core *core, struct flow *flow, int family)
{
    for (int at = 0; at < MAX_FRAGMENTS && flow->fragments[at] != NULL; at++)
        unlink_fragment(core, flow->fragments[at], family);
}

static struct fragment *fragment_new(struct core *core, struct flow *flow, const struct part *part)
{
    struct fragment *fragment = allocate(sizeof *fragment + part->size);
    fragment->flow = flow;
    fragment->size = (uint16_t)part->size;
    memcpy(fragment->text, part->text, part->size);
    link_fragment(core, fragment, 0);
    link_fragment(core, fragment, 1);
    return fragment;
}

/* Takes the fragment at this place out of the flow's; it is returned. */
static struct fragment *fragment_take(struct flow *flow, int at)
{
    struct fragment *taken = flow->fragments[at];
    memmove(flow->fragments + at, flow->fragments + at + 1, (size_t)(MAX_FRAGMENTS - at - 1) * sizeof *flow->fragments);
    flow->fragments[MAX_FRAGMENTS - 1] = NULL;
    return taken;
}

void shared_learn(struct core *core, struct flow *flow, const uint8_t *payload, size_t size)
{
    struct part receiver, sender;
    struct fragment *known = NULL;
    if (flow->relayed[0].port == NULL && flow->relayed[1].port == NULL)
        return;
    if (!read_username(payload, size, &receiver, &sender) || sender.size == 0 || sender.size > MAX_FRAGMENT_SIZE)
        return;
    int count = 0;
    while (count < MAX_FRAGMENTS && flow->fragments[count] != NULL) {
        if (fragment_is(flow->fragments[count], &sender))
            known = fragment_take(flow, count);
        else
            count++;
    }
    if (count == MAX_FRAGMENTS) {
        struct fragment *oldest = fragment_take(flow, 0);
        unlink_fragment(core, oldest, 0);
        unlink_fragment(core, oldest, 1);
        free(oldest);
        count--;
    }
    flow->fragments[count] = known != NULL ? known : fragment_new(core, flow, &sender);
}

/* Whether a check from `source` may be meant for this flow. `from`: the flow that it comes from, if any. */
static bool may_be_asked(const struct core *core, const struct flow *flow, const struct flow *from,
                         const struct address *source, double now)
{
    const struct permission *permission = permission_find(flow, source);
    if (permission == NULL || permission->expires_at <= now)
        return false;
    return from == NULL ? !is_listener(core, source, permission) : flow != from && flow_reaches(from, flow);
}

struct flow *shared_choose(struct core *core, const struct port *port, const struct flow *from,
                           const struct address *source, const uint8_t *payload, size_t size, double now)
{
    struct part receiver, sender;
    if (!read_username(payload, size, &receiver, &sender))
        return NULL;
    struct flow *chosen = NULL;
    int namesakes = 0;
    bool several = false;
    int family = family_index(&port->address);
    uint64_t hash = fragment_hash(receiver.text, receiver.size, port);
    for (struct node *node = map_chain(&core->fragments, hash); node != NULL; node = node->next) {
        /* Of the other family's port it is the other node, which has another hash. */
        const struct fragment *fragment = CONTAINER(node - family, struct fragment, node);
        if (node->hash != hash || fragment->flow->relayed[family].port != port || !fragment_is(fragment, &receiver))
            continue;
        if (++namesakes > MAX_NAMESAKES)
            return NULL;
        if (!may_be_asked(core, fragment->flow, from, source, now))
            continue;
        several = several || chosen != NULL;
        chosen = fragment->flow;
    }
    return several ? NULL : chosen;
}

static struct pair *find_pair(const struct flow *flow, const struct port *port)
{
    struct pair *pair = flow->pairs;
    while (pair != NULL && pair->port != port)
        pair = pair->next;
    return pair;
}

struct flow *shared_pair(const struct core *core, const struct flow *flow, const struct port *port)
{
    const struct pair *pair = find_pair(flow, port);
    struct flow *other = pair == NULL ? NULL : flow_find(core, pair->flow_id);
    return other != NULL && other->relayed[family_index(&port->address)].port == port ? other : NULL;
}

void shared_set_pair(struct flow *flow, struct port *port, const struct flow *other)
{
    struct pair *pair = find_pair(flow, port);
    if (pair == NULL) {
        pair = allocate(sizeof *pair);
        pair->port = port;
        pair->next = flow->pairs;
        flow->pairs = pair;
    }
    pair->flow_id = other->id;
}
