/* Requests of many clients, a bounded number of them at a time: allocations with the long-term mechanism (RFC 8489
 * §9.2), channels, and their end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loadgen.h"
#include "stun.h"

enum {
    MAX_TRIES = 8,        /* of one request, unanswered */
    MAX_CHALLENGES = 3,   /* new nonces, in one request */
    MAX_EVENTS = 64,
    CHECK_INTERVAL_MS = 20,
};
static const uint64_t ANSWER_TIMEOUT_NS = 500 * 1000000ull;
static const uint8_t UDP_TRANSPORT[4] = {17};

/* One client's request that waits for its answer. */
struct pending {
    int client; /* -1: none */
    int tries, challenges;
    uint64_t repeat_at_ns;
    uint8_t transaction_id[TRANSACTION_ID_SIZE];
    struct message request;
};

struct queue {
    struct load *load;
    enum step step;
    int first, count, next;
    int window;
    struct pending *pending;
    int epoll;
    uint32_t last_id;
    struct handshakes *result;
};

static void add_target(struct message *request, const struct load *load, int client, enum step step) {
    uint8_t channel[4] = {CHANNEL >> 8, CHANNEL & 0xFF};
    stun_append(request, CHANNEL_NUMBER, channel, sizeof channel);
    const struct sockaddr_in *peer = step == BIND_PARTNER ? &load->clients[client ^ 1].relayed
                                                          : &load->channel_peers[client % load->peer_count].address;
    stun_append_address(request, XOR_PEER_ADDRESS, peer);
}

static void build(struct queue *queue, struct pending *pending) {
    static const uint8_t zero[4];
    const struct client *client = &queue->load->clients[pending->client];
    struct message *request = &pending->request;
    uint32_t id = ++queue->last_id;
    memcpy(pending->transaction_id, &id, sizeof id);
    memcpy(pending->transaction_id + 4, &pending->client, sizeof pending->client);
    memcpy(pending->transaction_id + 8, &queue->load, 4);
    switch (queue->step) {
    case ALLOCATE:
        stun_begin(request, ALLOCATE_REQUEST, pending->transaction_id);
        stun_append(request, REQUESTED_TRANSPORT, UDP_TRANSPORT, sizeof UDP_TRANSPORT);
        break;
    case REFRESH_ZERO:
        stun_begin(request, REFRESH_REQUEST, pending->transaction_id);
        stun_append(request, LIFETIME, zero, sizeof zero);
        break;
    default:
        stun_begin(request, CHANNEL_BIND_REQUEST, pending->transaction_id);
        add_target(request, queue->load, pending->client, queue->step);
    }
    if (client->nonce_size > 0) {
        stun_append(request, USERNAME, client->username, strlen(client->username));
        stun_append(request, REALM, client->realm, client->realm_size);
        stun_append(request, NONCE, client->nonce, client->nonce_size);
        stun_sign(request, client->key, KEY_SIZE);
    }
    pending->tries = 0;
}

static void transmit(struct queue *queue, struct pending *pending, uint64_t now) {
    const struct client *client = &queue->load->clients[pending->client];
    pending->tries++;
    pending->repeat_at_ns = now + ANSWER_TIMEOUT_NS;
    (void)!send(client->fd, pending->request.bytes, pending->request.size, 0); /* it is repeated */
}

static void watch(struct queue *queue, int slot, int operation) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)slot};
    epoll_ctl(queue->epoll, operation, queue->load->clients[queue->pending[slot].client].fd, &event);
}

static void take_next(struct queue *queue, int slot, uint64_t now) {
    struct pending *pending = &queue->pending[slot];
    if (queue->next == queue->count) {
        pending->client = -1;
        return;
    }
    pending->client = queue->first + queue->next++;
    pending->challenges = 0;
    watch(queue, slot, EPOLL_CTL_ADD);
    build(queue, pending);
    transmit(queue, pending, now);
}

static void end(struct queue *queue, int slot, int succeeded, uint32_t error_code, uint64_t now) {
    if (succeeded) {
        queue->result->done++;
    } else {
        queue->result->failed++;
        queue->result->error_code = error_code;
    }
    watch(queue, slot, EPOLL_CTL_DEL);
    take_next(queue, slot, now);
}

static uint16_t keep_text(uint8_t *to, const uint8_t *bytes, size_t total, unsigned type) {
    size_t size = 0;
    const uint8_t *text = stun_find(bytes, total, type, &size);
    if (text == NULL || size > TEXT_SIZE)
        return 0;
    memcpy(to, text, size);
    return (uint16_t)size;
}

static void refused(struct queue *queue, int slot, const uint8_t *bytes, size_t total, uint64_t now) {
    struct pending *pending = &queue->pending[slot];
    struct client *client = &queue->load->clients[pending->client];
    size_t size = 0;
    const uint8_t *error = stun_find(bytes, total, ERROR_CODE, &size);
    uint32_t code = error != NULL && size >= 4 ? (error[2] & 7) * 100u + error[3] : 0;
    if ((code == 401 || code == 438) && pending->challenges++ < MAX_CHALLENGES) {
        client->realm_size = keep_text(client->realm, bytes, total, REALM);
        client->nonce_size = keep_text(client->nonce, bytes, total, NONCE);
        build(queue, pending);
        transmit(queue, pending, now);
    } else {
        end(queue, slot, 0, code, now);
    }
}

static void answered(struct queue *queue, int slot, const uint8_t *bytes, size_t total, uint64_t now) {
    struct pending *pending = &queue->pending[slot];
    if (total < STUN_HEADER_SIZE || memcmp(bytes + 8, pending->transaction_id, TRANSACTION_ID_SIZE) != 0)
        return; /* to a request that was repeated */
    unsigned bits = get16(bytes) & ERROR_BITS;
    if (bits == ERROR_BITS) {
        refused(queue, slot, bytes, total, now);
    } else if (bits == SUCCESS_BIT) {
        size_t size = 0;
        const uint8_t *relayed = stun_find(bytes, total, XOR_RELAYED_ADDRESS, &size);
        int good = queue->step != ALLOCATE ||
                   (relayed != NULL && stun_address(relayed, size, &queue->load->clients[pending->client].relayed));
        end(queue, slot, good, 0, now);
    }
}

static void receive(struct queue *queue, int slot, uint64_t now) {
    uint8_t bytes[2048];
    const struct pending *pending = &queue->pending[slot];
    ssize_t size = recv(queue->load->clients[pending->client].fd, bytes, sizeof bytes, 0);
    if (size > 0)
        answered(queue, slot, bytes, (size_t)size, now);
}

static void repeat_late_ones(struct queue *queue, uint64_t now) {
    for (int slot = 0; slot < queue->window; slot++) {
        struct pending *pending = &queue->pending[slot];
        if (pending->client < 0 || pending->repeat_at_ns > now)
            continue;
        if (pending->tries == MAX_TRIES) {
            end(queue, slot, 0, 0, now);
        } else {
            queue->result->repeated++;
            transmit(queue, pending, now);
        }
    }
}

static void run(struct queue *queue) {
    struct epoll_event events[MAX_EVENTS];
    uint64_t started = now_ns(), checked = started;
    for (int slot = 0; slot < queue->window; slot++)
        take_next(queue, slot, started);
    while (queue->result->done + queue->result->failed < (uint64_t)queue->count) {
        int ready = epoll_wait(queue->epoll, events, MAX_EVENTS, CHECK_INTERVAL_MS);
        uint64_t now = now_ns();
        for (int i = 0; i < ready; i++)
            if (queue->pending[events[i].data.u32].client >= 0)
                receive(queue, (int)events[i].data.u32, now);
        if (now - checked > CHECK_INTERVAL_MS * 1000000ull) {
            repeat_late_ones(queue, now);
            checked = now;
        }
    }
    queue->result->elapsed_ns = now_ns() - started;
}

/* Has clients first..first+count-1 ask for `step`, `window` of them at a time, each until it is answered or MAX_TRIES
 * have passed. Returns 0, or -1 with errno set if it could not begin. */
int load_request(struct load *load, int step, int first, int count, int window, struct handshakes *result) {
    struct queue queue = {.load = load, .step = (enum step)step, .first = first, .count = count, .window = window};
    memset(result, 0, sizeof *result);
    queue.result = result;
    queue.pending = calloc((size_t)window, sizeof *queue.pending);
    queue.epoll = epoll_create1(EPOLL_CLOEXEC);
    int status = queue.pending == NULL || queue.epoll < 0 ? -1 : 0;
    if (status == 0)
        run(&queue);
    free(queue.pending);
    if (queue.epoll >= 0)
        close(queue.epoll);
    return status;
}
