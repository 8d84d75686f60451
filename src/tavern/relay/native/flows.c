#include "flows.h"

#include <stdlib.h>

static uint64_t client_hash(const struct client *client)
{
    return hash_bytes(client, sizeof *client);
}

struct flow *flow_find(const struct core *core, uint64_t id)
{
    for (struct node *node = map_chain(&core->flows, hash_number(id)); node != NULL; node = node->next)
        if (CONTAINER(node, struct flow, by_id)->id == id)
            return CONTAINER(node, struct flow, by_id);
    return NULL;
}

struct flow *flow_of_client(const struct core *core, const struct client *client)
{
    uint64_t hash = client_hash(client);
    for (struct node *node = map_chain(&core->clients, hash); node != NULL; node = node->next) {
        struct flow *flow = CONTAINER(node, struct flow, by_client);
        if (node->hash == hash && memcmp(&flow->client, client, sizeof *client) == 0)
            return flow;
    }
    return NULL;
}

struct flow *flow_at(const struct core *core, const struct address *address)
{
    uint64_t hash = address_hash(address);
    for (struct node *node = map_chain(&core->relayed, hash); node != NULL; node = node->next) {
        struct relayed *relayed = CONTAINER(node, struct relayed, node);
        if (node->hash == hash && address_equal(&relayed->address, address))
            return CONTAINER(relayed - family_index(address), struct flow, relayed);
    }
    return NULL;
}

struct port *port_at(const struct core *core, const struct address *address)
{
    if (core->port_names.count == 0)
        return NULL;
    uint64_t hash = address_hash(address);
    for (struct node *node = map_chain(&core->port_names, hash); node != NULL; node = node->next)
        if (node->hash == hash && address_equal(&CONTAINER(node, struct port_name, node)->address, address))
            return CONTAINER(node, struct port_name, node)->port;
    return NULL;
}

struct permission *permission_find(const struct flow *flow, const struct address *address)
{
    struct address host = address_host(*address);
    uint64_t hash = address_hash(&host);
    for (struct node *node = map_chain(&flow->permissions, hash); node != NULL; node = node->next)
        if (node->hash == hash && address_equal(&CONTAINER(node, struct permission, node)->host, &host))
            return CONTAINER(node, struct permission, node);
    return NULL;
}

struct peer *peer_find(const struct flow *flow, const struct address *address)
{
    uint64_t hash = address_hash(address);
    for (struct node *node = map_chain(&flow->peers, hash); node != NULL; node = node->next)
        if (node->hash == hash && address_equal(&CONTAINER(node, struct peer, node)->address, address))
            return CONTAINER(node, struct peer, node);
    return NULL;
}

struct peer *channel_find(const struct flow *flow, uint16_t number)
{
    for (struct node *node = map_chain(&flow->channels, number); node != NULL; node = node->next)
        if (node->hash == number)
            return CONTAINER(node, struct peer, channel_node);
    return NULL;
}

bool is_own_host(const struct core *core, const struct address *address)
{
    struct address host = address_host(*address);
    for (uint32_t at = 0; at < core->own_host_count; at++)
        if (address_equal(&core->own_hosts[at], &host))
            return true;
    return false;
}

bool is_listener(const struct core *core, const struct address *address, const struct permission *permission)
{
    for (uint32_t at = 0; at < core->listener_port_count; at++)
        if (core->listener_ports[at] == address->port)
            return permission->own || is_own_host(core, address);
    return false;
}

bool flow_reaches(const struct flow *flow, const struct flow *other)
{
    if (!flow->has_circles || !other->has_circles)
        return flow->has_circles == other->has_circles;
    for (uint32_t one = 0, two = 0; one < flow->circle_count && two < other->circle_count;) {
        if (flow->circles[one] == other->circles[two])
            return true;
        if (flow->circles[one] < other->circles[two])
            one++;
        else
            two++;
    }
    return false;
}

static void permission_drop_if_unused(struct permission *permission)
{
    if (permission->installed || permission->known != NULL)
        return;
    free(permission->claim);
    free(permission);
}

static void peer_unlink(struct peer *peer)
{
    struct permission *permission = peer->permission;
    if (peer->previous == NULL)
        return; /* it points to `never` */
    *peer->previous = peer->next;
    if (peer->next != NULL)
        peer->next->previous = peer->previous;
    peer->previous = NULL;
    peer->next = NULL;
    peer->permission = NULL;
    permission_drop_if_unused(permission);
}

void peer_disown(struct peer *peer)
{
    if (!peer->is_owned)
        return;
    peer->is_owned = false;
    map_remove(&peer->flow->relayed[family_index(&peer->address)].port->owners, &peer->owner_node);
}

static void peer_drop_if_unused(struct peer *peer)
{
    if (peer->is_known || peer->number != 0)
        return;
    peer_disown(peer);
    peer_unlink(peer);
    free(peer);
}

bool is_outside(const struct core *core, const struct address *address)
{
    return port_at(core, address) == NULL && flow_at(core, address) == NULL;
}

struct peer *port_owner(const struct port *port, const struct address *address)
{
    uint64_t hash = address_hash(address);
    for (struct node *node = map_chain(&port->owners, hash); node != NULL; node = node->next)
        if (node->hash == hash && address_equal(&CONTAINER(node, struct peer, owner_node)->address, address))
            return CONTAINER(node, struct peer, owner_node);
    return NULL;
}

bool peer_is_anothers(const struct core *core, const struct flow *flow, const struct address *address)
{
    const struct port *port = flow->relayed[family_index(address)].port;
    const struct peer *owner = port == NULL ? NULL : port_owner(port, address);
    return owner != NULL && owner->flow != flow && is_outside(core, address);
}

bool peer_own(struct peer *peer)
{
    struct port *port = peer->flow->relayed[family_index(&peer->address)].port;
    const struct peer *owner = port_owner(port, &peer->address);
    if (owner != NULL)
        return owner == peer;
    peer->is_owned = true;
    map_add(&port->owners, &peer->owner_node, peer->node.hash);
    return true;
}

void peer_own_if_outside(const struct core *core, struct peer *peer)
{
    if (peer->flow->relayed[family_index(&peer->address)].port != NULL && is_outside(core, &peer->address))
        peer_own(peer);
}

static void peer_add(struct core *core, struct flow *flow, struct peer *peer)
{
    peer->is_known = true;
    map_add(&flow->peers, &peer->node, address_hash(&peer->address));
    peer_own_if_outside(core, peer);
}

void peer_forget(struct flow *flow, struct peer *peer)
{
    if (peer->is_known) {
        peer_disown(peer);
        peer->is_known = false;
        map_remove(&flow->peers, &peer->node);
    }
    peer_drop_if_unused(peer);
}

static void forget_without_channel(struct node *node, void *context)
{
    struct peer *peer = CONTAINER(node, struct peer, node);
    if (peer->number == 0)
        peer_forget(context, peer);
}


struct peer *peer_know(struct core *core, struct flow *flow, const struct address *address)
{
    struct peer *peer = peer_find(flow, address);
    if (peer != NULL)
        return peer;
    if (peer_is_anothers(core, flow, address))
        return NULL;
    if (flow->peers.count >= MAX_KNOWN_PEERS)
        map_each(&flow->peers, forget_without_channel, flow);
    peer = allocate(sizeof *peer);
    peer->flow = flow;
    peer->address = *address;
    peer->permission = &core->never;
    peer->ours = is_own_host(core, address);
    peer_add(core, flow, peer);
    return peer;
}

void peer_permit(struct peer *peer, struct permission *permission)
{
    if (peer->permission == permission)
        return;
    peer_unlink(peer);
    peer->permission = permission;
    peer->next = permission->known;
    peer->previous = &permission->known;
    if (peer->next != NULL)
        peer->next->previous = &peer->next;
    permission->known = peer;
}

void permission_revoke(struct flow *flow, struct permission *permission)
{
    map_remove(&flow->permissions, &permission->node);
    permission->expires_at = 0.0; /* peers with channels still point to it */
    struct peer *next;
    for (struct peer *peer = permission->known; peer != NULL; peer = next) {
        next = peer->next;
        if (peer->number == 0)
            peer_forget(flow, peer); /* never the last word on `permission`: it is installed still */
    }
    permission->installed = false;
    permission_drop_if_unused(permission);
}

void channel_unbind(struct flow *flow, struct peer *peer)
{
    map_remove(&flow->channels, &peer->channel_node);
    peer->number = 0;
    peer->channel_expires_at = 0.0;
    if (peer->permission->expires_at == 0.0)
        peer_forget(flow, peer);
    else
        peer_drop_if_unused(peer);
}

static void unbind_node(struct node *node, void *context)
{
    channel_unbind(context, CONTAINER(node, struct peer, channel_node));
}

static void forget_node(struct node *node, void *context)
{
    peer_forget(context, CONTAINER(node, struct peer, node));
}

static void revoke_node(struct node *node, void *context)
{
    permission_revoke(context, CONTAINER(node, struct permission, node));
}

void flow_free(struct core *core, struct flow *flow)
{
    map_each(&flow->channels, unbind_node, flow);
    map_each(&flow->permissions, revoke_node, flow);
    map_each(&flow->peers, forget_node, flow);
    while (flow->pairs != NULL) {
        struct pair *pair = flow->pairs;
        flow->pairs = pair->next;
        free(pair);
    }
    fragments_unlink(core, flow, 0);
    fragments_unlink(core, flow, 1);
    for (int at = 0; at < MAX_FRAGMENTS; at++)
        free(flow->fragments[at]);
    free(flow->circles);
    free(flow);
}
