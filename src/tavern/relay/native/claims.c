#include "claims.h"

#include <stdlib.h>

enum {
    MAX_CHECK_SIZE = 548,   /* RFC 8489 §6.1: what passes every path; a check could carry anything */
    MAX_UNANSWERED = 65536, /* of all users, 3 MB; the oldest go first, and who checks himself needs none */
};

/* Together at most 50 in any second to one target; of one user to all of them 1000 (claims.py says why). */
static const double CHECKS_PER_S = 40.0, CHECK_BURST = 10.0, USER_CHECKS_PER_S = 1000.0;
static const double ANSWER_S = 10.0; /* no path is slower */

struct unanswered {
    struct node node;
    uint64_t claim;
    double expires_at;
    uint8_t transaction[12];
};

struct checks *checks_open(void)
{
    struct checks *checks = allocate(sizeof *checks);
    buckets_open(&checks->targets, CHECKS_PER_S, CHECK_BURST);
    buckets_open(&checks->users, USER_CHECKS_PER_S, USER_CHECKS_PER_S);
    checks->ring = allocate(MAX_UNANSWERED * sizeof *checks->ring); /* the kernel gives pages as they are used */
    return checks;
}

void checks_close(struct checks *checks)
{
    map_clear(&checks->by_transaction);
    free(checks->ring);
    free(checks);
}

struct claim *claim_new(struct checks *checks, uint64_t user, const uint64_t *targets, unsigned target_count)
{
    struct claim *claim = allocate(sizeof *claim);
    claim->number = ++checks->last_claim;
    claim->user = user;
    claim->target_count = target_count < MAX_CLAIM_TARGETS ? target_count : MAX_CLAIM_TARGETS;
    memcpy(claim->targets, targets, claim->target_count * sizeof *targets);
    return claim;
}

static uint64_t unanswered_hash(uint64_t claim, const uint8_t *transaction)
{
    return hash_bytes(transaction, 12) ^ hash_number(claim);
}

static void forget_oldest(struct checks *checks)
{
    map_remove(&checks->by_transaction, &checks->ring[checks->oldest].node);
    checks->oldest = (checks->oldest + 1) % MAX_UNANSWERED;
    checks->count--;
}

static void remember(struct checks *checks, uint64_t claim, const uint8_t *transaction, double now)
{
    while (checks->count == MAX_UNANSWERED || (checks->count > 0 && checks->ring[checks->oldest].expires_at <= now))
        forget_oldest(checks);
    struct unanswered *entry = &checks->ring[(checks->oldest + checks->count) % MAX_UNANSWERED];
    checks->count++;
    entry->claim = claim;
    entry->expires_at = now + ANSWER_S;
    memcpy(entry->transaction, transaction, sizeof entry->transaction);
    map_add(&checks->by_transaction, &entry->node, unanswered_hash(claim, transaction));
}

static bool is_awaited(const struct checks *checks, uint64_t claim, const uint8_t *transaction)
{
    uint64_t hash = unanswered_hash(claim, transaction);
    for (struct node *node = map_chain(&checks->by_transaction, hash); node != NULL; node = node->next) {
        const struct unanswered *entry = CONTAINER(node, struct unanswered, node);
        if (entry->claim == claim && memcmp(entry->transaction, transaction, sizeof entry->transaction) == 0)
            return true;
    }
    return false;
}

bool claim_may_leave(struct checks *checks, const struct claim *claim, const uint8_t *payload, size_t size, double now)
{
    if (size > MAX_CHECK_SIZE || !stun_is(payload, size, BINDING_REQUEST))
        return false;
    if (!buckets_take(&checks->users, claim->user, now))
        return false;
    for (unsigned at = 0; at < claim->target_count; at++)
        if (!buckets_take(&checks->targets, claim->targets[at], now))
            return false;
    remember(checks, claim->number, payload + 8, now);
    return true;
}

bool claim_is_proven_by(const struct checks *checks, const struct claim *claim, const uint8_t *payload, size_t size)
{
    if (stun_is(payload, size, BINDING_SUCCESS))
        return is_awaited(checks, claim->number, payload + 8) && stun_has(payload, size, MESSAGE_INTEGRITY);
    return stun_is(payload, size, BINDING_REQUEST);
}
