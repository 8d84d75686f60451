#include "queues.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    OUTBOX_SIZE = 64 << 10, /* media of one client: half a second at 1 Mbit/s */
    EVENTS_SIZE = 8 << 20,  /* media of all clients while the control side is busy: 128 full outboxes */
};

void records_open(struct records *records)
{
    memset(records, 0, sizeof *records);
    pthread_mutex_init(&records->lock, NULL);
}

void records_close(struct records *records)
{
    pthread_mutex_destroy(&records->lock);
    free(records->data);
}

/* Room for so many bytes more, which count as put. */
static uint8_t *grow(struct records *records, size_t size)
{
    size_t needed = records->size + size;
    if (needed > records->capacity) {
        records->capacity = needed > 2 * records->capacity ? needed + 1024 : 2 * records->capacity;
        records->data = reallocate(records->data, records->capacity);
    }
    uint8_t *at = records->data + records->size;
    records->size = needed;
    return at;
}

void records_put(struct records *records, const void *head, size_t head_size, const void *data, size_t data_size)
{
    uint32_t size = (uint32_t)(head_size + data_size);
    pthread_mutex_lock(&records->lock);
    uint8_t *at = grow(records, sizeof size + size);
    memcpy(at, &size, sizeof size);
    memcpy(at + sizeof size, head, head_size);
    if (data_size > 0)
        memcpy(at + sizeof size + head_size, data, data_size);
    atomic_store(&records->waiting, records->size);
    pthread_mutex_unlock(&records->lock);
}

void records_put_all(struct records *records, const void *data, size_t size)
{
    pthread_mutex_lock(&records->lock);
    memcpy(grow(records, size), data, size);
    atomic_store(&records->waiting, records->size);
    pthread_mutex_unlock(&records->lock);
}

uint8_t *records_take_all(struct records *records, size_t *size)
{
    if (atomic_load(&records->waiting) == 0)
        return NULL;
    pthread_mutex_lock(&records->lock);
    uint8_t *data = records->data;
    *size = records->size;
    records->data = NULL;
    records->size = records->capacity = 0;
    atomic_store(&records->waiting, 0);
    pthread_mutex_unlock(&records->lock);
    return data;
}

size_t records_take_some(struct records *records, uint8_t *to, size_t room)
{
    size_t taken = 0;
    pthread_mutex_lock(&records->lock);
    while (taken < records->size) {
        uint32_t size;
        memcpy(&size, records->data + taken, sizeof size);
        if (taken + sizeof size + size > room)
            break;
        taken += sizeof size + size;
    }
    if (taken > 0) {
        memcpy(to, records->data, taken);
        records->size -= taken;
        memmove(records->data, records->data + taken, records->size);
        atomic_store(&records->waiting, records->size);
    }
    pthread_mutex_unlock(&records->lock);
    return taken;
}

bool wake_open(struct wake *wake)
{
    atomic_store(&wake->pending, false);
    wake->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return wake->fd >= 0;
}

void wake_close(struct wake *wake)
{
    if (wake->fd >= 0)
        close(wake->fd);
}

void wake_up(struct wake *wake)
{
    uint64_t one = 1;
    if (!atomic_exchange(&wake->pending, true) && write(wake->fd, &one, sizeof one) < 0)
        atomic_store(&wake->pending, false); /* its counter is full: then it is readable */
}

void wake_seen(struct wake *wake)
{
    uint64_t count;
    if (read(wake->fd, &count, sizeof count) < 0)
        return; /* somebody looks although nobody woke him */
    atomic_store(&wake->pending, false);
}

void streams_open(struct streams *streams)
{
    memset(streams, 0, sizeof *streams);
    pthread_mutex_init(&streams->lock, NULL);
    records_open(&streams->events);
}

static void free_link(struct node *node, void *context)
{
    (void)context;
    free(CONTAINER(node, struct link, node));
}

void streams_close(struct streams *streams)
{
    map_each(&streams->links, free_link, NULL);
    map_clear(&streams->links);
    records_close(&streams->events);
    pthread_mutex_destroy(&streams->lock);
}

struct link *streams_open_link(struct streams *streams, uint32_t id)
{
    struct link *link = allocate(sizeof *link);
    link->id = id;
    pthread_mutex_lock(&streams->lock);
    map_add(&streams->links, &link->node, hash_number(id));
    pthread_mutex_unlock(&streams->lock);
    return link;
}

void streams_close_link(struct streams *streams, struct link *link)
{
    pthread_mutex_lock(&streams->lock);
    map_remove(&streams->links, &link->node);
    pthread_mutex_unlock(&streams->lock);
    free(link);
}

/* What came of reserving room for media: there is some, there is none, or there is no client any more. */
enum room { ROOM, FULL, GONE };

static enum room reserve(struct streams *streams, uint32_t id, size_t padded)
{
    enum room room = GONE;
    pthread_mutex_lock(&streams->lock);
    struct node *node = map_chain(&streams->links, hash_number(id));
    while (node != NULL && CONTAINER(node, struct link, node)->id != id)
        node = node->next;
    if (node != NULL) {
        struct link *link = CONTAINER(node, struct link, node);
        room = ROOM;
        if (atomic_load(&link->media_waiting) + (int_fast64_t)padded > OUTBOX_SIZE)
            room = FULL;
        else
            atomic_fetch_add(&link->media_waiting, (int_fast64_t)padded);
    }
    pthread_mutex_unlock(&streams->lock);
    return room;
}

bool streams_put_media(struct streams *streams, uint32_t link, const uint8_t *data, size_t size)
{
    if (atomic_load(&streams->events.waiting) > EVENTS_SIZE)
        return false;
    enum room room = reserve(streams, link, (size + 3) & ~(size_t)3);
    if (room == ROOM)
        streams_put(streams, link, STREAM_MEDIA, data, size);
    return room != FULL;
}

void streams_put(struct streams *streams, uint32_t link, enum stream_event kind, const uint8_t *data, size_t size)
{
    uint8_t head[5];
    memcpy(head, &link, sizeof link);
    head[4] = (uint8_t)kind;
    records_put(&streams->events, head, sizeof head, data, size);
}
