#include "map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { FIRST_BUCKETS = 4 };

static uint64_t seed = 0x9e3779b97f4a7c15;

void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL) {
        fputs("tavern: out of memory\n", stderr);
        abort();
    }
    return memory;
}

void *reallocate(void *memory, size_t size)
{
    void *grown = realloc(memory, size);
    if (grown == NULL) {
        fputs("tavern: out of memory\n", stderr);
        abort();
    }
    return grown;
}

static void rebuild(struct map *map, uint32_t size)
{
    struct node **buckets = allocate(size * sizeof *buckets);
    uint32_t mask = size - 1;
    for (uint32_t at = 0; map->buckets != NULL && at <= map->mask; at++) {
        struct node *next;
        for (struct node *node = map->buckets[at]; node != NULL; node = next) {
            next = node->next;
            node->next = buckets[node->hash & mask];
            buckets[node->hash & mask] = node;
        }
    }
    free(map->buckets);
    map->buckets = buckets;
    map->mask = mask;
}

void map_add(struct map *map, struct node *node, uint64_t hash)
{
    if (map->buckets == NULL)
        rebuild(map, FIRST_BUCKETS);
    else if (map->count > map->mask)
        rebuild(map, 2 * (map->mask + 1));
    struct node **bucket = &map->buckets[hash & map->mask];
    node->hash = hash;
    node->next = *bucket;
    *bucket = node;
    map->count++;
}

void map_remove(struct map *map, struct node *node)
{
    struct node **at = &map->buckets[node->hash & map->mask];
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    node->next = NULL;
    map->count--;
    if (map->count == 0)
        map_clear(map);
}

void map_each(struct map *map, void (*visit)(struct node *node, void *context), void *context)
{
    uint32_t mask = map->mask;
    for (uint32_t at = 0; map->buckets != NULL && at <= mask; at++) {
        struct node *next;
        for (struct node *node = map->buckets[at]; node != NULL; node = next) {
            next = node->next;
            visit(node, context);
            if (map->buckets == NULL)
                return; /* the last one was removed */
        }
    }
}

void map_clear(struct map *map)
{
    free(map->buckets);
    memset(map, 0, sizeof *map);
}

/* Before there is a map: what is in one is found by the seed that it was added with. */
__attribute__((constructor)) static void choose_seed(void)
{
    uint64_t value;
    if (getrandom(&value, sizeof value, 0) == sizeof value)
        seed = value | 1;
}

static inline uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t hash_number(uint64_t number)
{
    return mix(number ^ seed, 0xd6e8feb86659fd93 ^ (seed << 1));
}

uint64_t hash_bytes(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint64_t hash = seed ^ size;
    for (; size >= 8; bytes += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        hash = mix(hash ^ word, 0xa0761d6478bd642f ^ seed);
    }
    uint64_t rest = 0;
    memcpy(&rest, bytes, size);
    return mix(hash ^ rest, 0xe7037ed1a0b428db ^ seed);
}
