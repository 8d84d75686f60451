/* The decisions alone, for tests: packets are copied in and out. */
#include "export.h"

#include <stdlib.h>


static const char *const DROP_NAMES[] = {
#define DROP_NAME(name, text) text,
    DROPS(DROP_NAME)};

EXPORT int tavern_abi(void)
{
    return ABI;
}

EXPORT const char *tavern_drop_name(unsigned reason)
{
    return reason < DROP_COUNT ? DROP_NAMES[reason] : NULL;
}

EXPORT struct core *tavern_core_open(const struct core_config *config, const uint8_t *transaction)
{
    struct core *core = core_open(config);
    core->fixed_transaction = transaction != NULL;
    if (transaction != NULL)
        memcpy(core->transaction, transaction, sizeof core->transaction);
    return core;
}

EXPORT int tavern_core_set_challenge(struct core *core, const uint8_t *key, size_t key_size, const uint8_t *realm,
                                     size_t realm_size, double rate_per_s, double burst)
{
    core->challenge = challenge_open(key, key_size, realm, realm_size, rate_per_s, burst);
    return core->challenge != NULL;
}

EXPORT void tavern_core_close(struct core *core)
{
    core_close(core);
}

EXPORT void tavern_core_open_shared(struct core *core, const struct address *address)
{
    core_open_port(core, address, -1);
}

EXPORT int tavern_core_execute(struct core *core, const uint8_t *command, size_t size)
{
    struct effect effect;
    return core_execute(core, command, size, &effect) ? 0 : -1;
}

/* A packet with the memory around it that the decisions write to; exactly so much, for the sanitizers to see. */
static uint8_t *packet(const uint8_t *data, size_t size)
{
    uint8_t *memory = allocate(HEADROOM + size + TAILROOM);
    memcpy(memory + HEADROOM, data, size);
    return memory;
}

static void decided(const struct output *output, uint8_t *memory, struct decision *decision, uint8_t *to)
{
    bool has_data = output->kind != OUT_DROPPED && output->kind != OUT_CONTROL;
    memset(decision, 0, sizeof *decision);
    decision->kind = output->kind;
    if (has_data) {
        decision->size = (uint32_t)output->size;
        memcpy(to, output->data, output->size);
        if (output->kind != OUT_REPLY)
            decision->flow = output->flow->id;
    }
    if (output->kind == OUT_TO_PEER || output->kind == OUT_UNFRAGMENTED)
        decision->peer = output->peer;
    free(memory);
}

EXPORT void tavern_core_from_client(struct core *core, const struct client *client, const uint8_t *data, size_t size,
                                    double now, int may_reply, struct decision *decision, uint8_t *to)
{
    uint8_t *memory = packet(data, size);
    struct output output;
    core_from_client(core, client, memory + HEADROOM, size, now, may_reply, &output);
    decided(&output, memory, decision, to);
}

EXPORT void tavern_core_from_peer(struct core *core, uint64_t id, const uint8_t *data, size_t size,
                                  const struct address *peer, double now, struct decision *decision, uint8_t *to)
{
    uint8_t *memory = packet(data, size);
    struct output output = {.kind = OUT_DROPPED};
    struct flow *flow = flow_find(core, id);
    if (flow != NULL)
        core_from_peer(core, flow, memory + HEADROOM, size, peer, now, &output);
    decided(&output, memory, decision, to);
}

/* As its socket is known, whatever relayed addresses it is by now. */
static struct port *opened_at(const struct core *core, const struct address *address)
{
    uint64_t hash = address_hash(address);
    for (struct node *node = map_chain(&core->ports, hash); node != NULL; node = node->next)
        if (node->hash == hash && address_equal(&CONTAINER(node, struct port, node)->address, address))
            return CONTAINER(node, struct port, node);
    return NULL;
}

EXPORT void tavern_core_from_shared(struct core *core, const struct address *address, const uint8_t *data, size_t size,
                                    const struct address *peer, double now, struct decision *decision, uint8_t *to)
{
    uint8_t *memory = packet(data, size);
    struct output output = {.kind = OUT_DROPPED};
    struct port *port = opened_at(core, address);
    if (port != NULL)
        core_from_shared(core, port, memory + HEADROOM, size, peer, now, &output);
    decided(&output, memory, decision, to);
}

EXPORT void tavern_core_from_icmp(struct core *core, uint64_t id, const struct address *peer, unsigned type,
                                  unsigned code, uint32_t mtu, double now, struct decision *decision, uint8_t *to)
{
    uint8_t *memory = allocate(72);
    struct output output = {.kind = OUT_DROPPED};
    struct flow *flow = flow_find(core, id);
    if (flow != NULL)
        core_from_icmp(core, flow, peer, type, code, mtu, now, memory, &output);
    decided(&output, memory, decision, to);
}

EXPORT void tavern_core_from_shared_icmp(struct core *core, const struct address *address, const struct address *peer,
                                         unsigned type, unsigned code, uint32_t mtu, double now,
                                         struct decision *decision, uint8_t *to)
{
    const struct port *port = opened_at(core, address);
    const struct peer *owner = port == NULL ? NULL : port_owner(port, peer);
    tavern_core_from_icmp(core, owner == NULL ? 0 : owner->flow->id, peer, type, code, mtu, now, decision, to);
}

EXPORT void tavern_core_counters(const struct core *core, struct traffic *traffic, uint64_t *drops)
{
    *traffic = core->traffic;
    memcpy(drops, core->drops, sizeof core->drops);
}

EXPORT int tavern_core_flow_traffic(const struct core *core, uint64_t id, struct traffic *traffic)
{
    const struct flow *flow = flow_find(core, id);
    if (flow != NULL)
        *traffic = flow->traffic;
    return flow != NULL;
}

/* What a listing has written. */
struct listing {
    void *to;
    size_t room, count;
};

static void list_permission(struct node *node, void *context)
{
    struct listing *listing = context;
    const struct permission *permission = CONTAINER(node, struct permission, node);
    if (listing->count < listing->room)
        ((struct known_permission *)listing->to)[listing->count] = (struct known_permission){
            permission->host,    permission->expires_at, permission->relayed_only, permission->own,
            permission->claimed, permission->claim != NULL};
    listing->count++;
}

static void list_peer(struct node *node, void *context)
{
    struct listing *listing = context;
    const struct peer *peer = CONTAINER(node, struct peer, node);
    if (listing->count < listing->room)
        ((struct known_peer *)listing->to)[listing->count] =
            (struct known_peer){peer->address, peer->channel_expires_at, peer->number, peer->is_owned};
    listing->count++;
}

EXPORT size_t tavern_core_permissions(const struct core *core, uint64_t id, struct known_permission *to, size_t room)
{
    struct listing listing = {to, room, 0};
    struct flow *flow = flow_find(core, id);
    if (flow != NULL)
        map_each(&flow->permissions, list_permission, &listing);
    return listing.count;
}

EXPORT size_t tavern_core_peers(const struct core *core, uint64_t id, struct known_peer *to, size_t room)
{
    struct listing listing = {to, room, 0};
    struct flow *flow = flow_find(core, id);
    if (flow != NULL)
        map_each(&flow->peers, list_peer, &listing);
    return listing.count;
}

EXPORT size_t tavern_core_accounts(const struct core *core)
{
    return core->meter.accounts.count;
}
