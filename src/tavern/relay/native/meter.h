/* What relayed data may take: token buckets for each user and for all, and the month's end (turn/metering.py). */
#ifndef TAVERN_METER_H
#define TAVERN_METER_H

#include "drops.h"
#include "map.h"

#include <stdbool.h>

struct bucket {
    double rate_per_s;
    double burst;
    double tokens;
    double updated_at;
};

/* One user's bucket, shared by all of his flows. */
struct account {
    struct node node;
    uint64_t user;
    struct bucket bucket;
    uint32_t flows;
    struct account *older, *newer; /* while it has no flows */
};

struct meter {
    bool is_limiting; /* false while it would refuse nothing */
    bool budget_spent;
    uint64_t user_bytes_per_s;
    uint64_t bytes_per_s;
    struct bucket total;
    struct map accounts;
    struct account *oldest_idle, *newest_idle;
    uint32_t idle;
};

void meter_open(struct meter *meter, uint64_t user_bytes_per_s, uint64_t bytes_per_s);
void meter_close(struct meter *meter);
void meter_set_budget_spent(struct meter *meter, bool spent);

/* The account of one more flow of `user`; NULL where users are unlimited. */
struct account *meter_join(struct meter *meter, uint64_t user);
void meter_leave(struct meter *meter, struct account *account);

/* Why this packet does not pass, or DROP_COUNT if it does, which is then counted. `leaves`: the machine. */
enum drop meter_refusal(struct meter *meter, struct account *account, size_t payload_size, double now, bool leaves);

#endif
