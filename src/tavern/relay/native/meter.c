#include "meter.h"

#include <stdlib.h>
#include <string.h>

enum {
    HEADERS_SIZE = 64,             /* what a packet takes beyond its payload, as metering.py reckons */
    LEAST_BURST = 65535 + HEADERS_SIZE, /* or the largest datagram would never pass */
    MAX_IDLE_ACCOUNTS = 1024,      /* else allocating again and again would fill a user's bucket */
};

static void bucket_open(struct bucket *bucket, uint64_t rate_per_s)
{
    bucket->rate_per_s = (double)rate_per_s;
    bucket->burst = rate_per_s > LEAST_BURST ? (double)rate_per_s : LEAST_BURST;
    bucket->tokens = bucket->burst;
    bucket->updated_at = 0.0;
}

static bool bucket_holds(struct bucket *bucket, double size, double now)
{
    if (now > bucket->updated_at) {
        double tokens = bucket->tokens + (now - bucket->updated_at) * bucket->rate_per_s;
        bucket->tokens = tokens < bucket->burst ? tokens : bucket->burst;
        bucket->updated_at = now;
    }
    return bucket->tokens >= size;
}

static void look_whether_limiting(struct meter *meter)
{
    meter->is_limiting = meter->budget_spent || meter->user_bytes_per_s || meter->bytes_per_s;
}

void meter_open(struct meter *meter, uint64_t user_bytes_per_s, uint64_t bytes_per_s)
{
    memset(meter, 0, sizeof *meter);
    meter->user_bytes_per_s = user_bytes_per_s;
    meter->bytes_per_s = bytes_per_s;
    bucket_open(&meter->total, bytes_per_s);
    look_whether_limiting(meter);
}

static void free_account(struct node *node, void *context)
{
    (void)context;
    free(CONTAINER(node, struct account, node));
}

void meter_close(struct meter *meter)
{
    map_each(&meter->accounts, free_account, NULL);
    map_clear(&meter->accounts);
}

void meter_set_budget_spent(struct meter *meter, bool spent)
{
    meter->budget_spent = spent;
    look_whether_limiting(meter);
}

static void idle_unlink(struct meter *meter, struct account *account)
{
    *(account->older ? &account->older->newer : &meter->oldest_idle) = account->newer;
    *(account->newer ? &account->newer->older : &meter->newest_idle) = account->older;
    account->older = account->newer = NULL;
    meter->idle--;
}

static void idle_link(struct meter *meter, struct account *account)
{
    account->older = meter->newest_idle;
    *(account->older ? &account->older->newer : &meter->oldest_idle) = account;
    meter->newest_idle = account;
    meter->idle++;
}

struct account *meter_join(struct meter *meter, uint64_t user)
{
    if (meter->user_bytes_per_s == 0)
        return NULL;
    uint64_t hash = hash_number(user);
    struct account *account = NULL;
    for (struct node *node = map_chain(&meter->accounts, hash); node != NULL; node = node->next)
        if (CONTAINER(node, struct account, node)->user == user)
            account = CONTAINER(node, struct account, node);
    if (account == NULL) {
        account = allocate(sizeof *account);
        account->user = user;
        bucket_open(&account->bucket, meter->user_bytes_per_s);
        map_add(&meter->accounts, &account->node, hash);
    } else if (account->flows == 0) {
        idle_unlink(meter, account);
    }
    account->flows++;
    return account;
}

void meter_leave(struct meter *meter, struct account *account)
{
    if (account == NULL || --account->flows > 0)
        return;
    idle_link(meter, account);
    if (meter->idle > MAX_IDLE_ACCOUNTS) {
        struct account *oldest = meter->oldest_idle;
        idle_unlink(meter, oldest);
        map_remove(&meter->accounts, &oldest->node);
        free(oldest);
    }
}

enum drop meter_refusal(struct meter *meter, struct account *account, size_t payload_size, double now, bool leaves)
{
    if (meter->budget_spent)
        return DROP_OVER_BUDGET;
    double size = (double)payload_size + HEADERS_SIZE;
    if (account != NULL && !bucket_holds(&account->bucket, size, now))
        return DROP_OVER_USER_RATE;
    if (leaves && meter->bytes_per_s) {
        if (!bucket_holds(&meter->total, size, now))
            return DROP_OVER_RATE;
        meter->total.tokens -= size;
    }
    if (account != NULL)
        account->bucket.tokens -= size;
    return DROP_COUNT;
}
