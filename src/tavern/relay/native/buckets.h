/* Token buckets by key, in a table of fixed size: keys that collide share one, and none makes it grow (limiter.py). */
#ifndef TAVERN_BUCKETS_H
#define TAVERN_BUCKETS_H

#include <stdbool.h>
#include <stdint.h>

enum { SHARED_BUCKETS = 8192 };

struct buckets {
    double rate_per_s;
    double burst;
    double tokens[SHARED_BUCKETS];
    double updated_at[SHARED_BUCKETS];
};

void buckets_open(struct buckets *buckets, double rate_per_s, double burst);

/* Whether the bucket of `key`, a hash with a seed of this process, held a token, which is then gone. */
bool buckets_take(struct buckets *buckets, uint64_t key, double now);

#endif
