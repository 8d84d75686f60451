/* A chained hash map of nodes that live inside other structures. It owns no node. */
#ifndef TAVERN_MAP_H
#define TAVERN_MAP_H

#include <stddef.h>
#include <stdint.h>

struct node {
    struct node *next;
    uint64_t hash;
};

/* All zeros is an empty map, which has no memory of its own: most allocations have few entries or none. */
struct map {
    struct node **buckets;
    uint32_t mask;
    uint32_t count;
};

#define CONTAINER(pointer, type, member) ((type *)((char *)(pointer) - offsetof(type, member)))

/* Where the nodes of this hash begin; follow `next`, and compare the hash and the key. */
static inline struct node *map_chain(const struct map *map, uint64_t hash)
{
    return map->buckets ? map->buckets[hash & map->mask] : NULL;
}

void map_add(struct map *map, struct node *node, uint64_t hash);
void map_remove(struct map *map, struct node *node);

/* Visits every node; the visited one may be removed and freed, no other one. */
void map_each(struct map *map, void (*visit)(struct node *node, void *context), void *context);

/* The map is empty; the nodes are the caller's. */
void map_clear(struct map *map);

/* As malloc and realloc, of zeroed memory for the first; the process ends where there is none. */
void *allocate(size_t size);
void *reallocate(void *memory, size_t size);

/* Keyed by a seed of this process, so that nobody can choose keys that collide. */
uint64_t hash_bytes(const void *data, size_t size);
uint64_t hash_number(uint64_t number);

#endif
