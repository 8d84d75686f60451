/* Memory that is there, or the process ends: its supervisor starts it anew. */
#ifndef TAVERN_MEMORY_H
#define TAVERN_MEMORY_H

#include <stdlib.h>

static inline void *reallocate(void *memory, size_t size)
{
    void *grown = realloc(memory, size);
    if (!grown)
        abort();
    return grown;
}

static inline void *allocate(size_t size)
{
    void *memory = calloc(1, size);
    if (!memory)
        abort();
    return memory;
}

#endif
