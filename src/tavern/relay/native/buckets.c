#include "buckets.h"

void buckets_open(struct buckets *buckets, double rate_per_s, double burst)
{
    buckets->rate_per_s = rate_per_s;
    buckets->burst = burst;
    for (int slot = 0; slot < SHARED_BUCKETS; slot++)
        buckets->tokens[slot] = burst;
}

bool buckets_take(struct buckets *buckets, uint64_t key, double now)
{
    uint64_t slot = key % SHARED_BUCKETS;
    double elapsed_s = now > buckets->updated_at[slot] ? now - buckets->updated_at[slot] : 0.0;
    double tokens = buckets->tokens[slot] + elapsed_s * buckets->rate_per_s;
    if (tokens > buckets->burst)
        tokens = buckets->burst;
    bool held = tokens >= 1;
    buckets->updated_at[slot] = now;
    buckets->tokens[slot] = held ? tokens - 1 : tokens;
    return held;
}
