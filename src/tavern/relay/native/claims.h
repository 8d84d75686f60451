/* Addresses that somebody says he has, until they speak for themselves (turn/claims.py). */
#ifndef TAVERN_CLAIMS_H
#define TAVERN_CLAIMS_H

#include "buckets.h"
#include "stun.h"

enum { MAX_CLAIM_TARGETS = 2 };

struct unanswered;

/* How many checks may leave to one address, whoever sends them, and which are not answered. */
struct checks {
    struct buckets targets;
    struct buckets users;
    struct unanswered *ring;
    struct map by_transaction;
    uint32_t oldest, count;
    uint64_t last_claim;
};

/* One allocation's claimed address, which has not spoken yet. */
struct claim {
    uint64_t number;
    uint64_t user;
    uint64_t targets[MAX_CLAIM_TARGETS]; /* what checks to it are counted for */
    unsigned target_count;
};

struct checks *checks_open(void);
void checks_close(struct checks *checks);
struct claim *claim_new(struct checks *checks, uint64_t user, const uint64_t *targets, unsigned target_count);

/* Whether `payload` is a connectivity check, and not one too many. One that leaves is remembered. */
bool claim_may_leave(struct checks *checks, const struct claim *claim, const uint8_t *payload, size_t size, double now);

/* Whether `payload`, which came from the address, shows that it is in the call: it checks, too, or answers, signed. */
bool claim_is_proven_by(const struct checks *checks, const struct claim *claim, const uint8_t *payload, size_t size);

#endif
