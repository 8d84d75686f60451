/* Where packets start and arrive, and what is looked at in each one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "stun.h"
#include "traffic.h"

/* The payload begins with this, which is no STUN message and no ChannelData: run, lane, sequence, time of sending. */
enum { AT_RUN = 4, AT_LANE = 8, AT_SEQUENCE = 12, AT_TIME = 20, CHANNEL_HEADER_SIZE = 4 };
static const uint8_t MAGIC[4] = {0x80, 0x00, 'T', 'V'};

static void channel_header(struct lane *lane, uint32_t payload_size) {
    put16(lane->header, CHANNEL);
    put16(lane->header + 2, payload_size);
    lane->header_size = CHANNEL_HEADER_SIZE;
}

/* All of a Send indication that comes before the payload. */
static void indication_header(struct lane *lane, const struct sockaddr_in *peer, uint32_t payload_size) {
    static const uint8_t transaction_id[TRANSACTION_ID_SIZE] = "tavernbench";
    struct message message;
    stun_begin(&message, SEND_INDICATION, transaction_id);
    stun_append_address(&message, XOR_PEER_ADDRESS, peer);
    put16(message.bytes + message.size, DATA);
    put16(message.bytes + message.size + 2, payload_size);
    message.size += 4;
    put16(message.bytes + 2, (unsigned)(message.size - STUN_HEADER_SIZE + ((payload_size + 3) & ~3u)));
    memcpy(lane->header, message.bytes, message.size);
    lane->header_size = (uint32_t)message.size;
}

static void set_lane(struct lane *lane, const struct load *load, int index, const struct talk *talk) {
    const struct client *client = &load->clients[index];
    int indications = talk->way == INDICATION_UP || talk->way == INDICATION_DOWN;
    const struct peer *peers = indications ? load->other_peers : load->channel_peers;
    const struct peer *peer = load->peer_count > 0 ? &peers[index % load->peer_count] : NULL;
    lane->send_fd = lane->receive_fd = client->fd;
    switch (talk->way) {
    case CHANNEL_UP:
        channel_header(lane, talk->payload_size);
        lane->receive_fd = peer->fd;
        break;
    case INDICATION_UP:
        indication_header(lane, &peer->address, talk->payload_size);
        lane->receive_fd = peer->fd;
        break;
    case CHANNEL_DOWN:
    case INDICATION_DOWN:
        lane->send_fd = peer->fd;
        lane->to = client->relayed;
        lane->has_to = 1;
        break;
    case PARTNERS:
        channel_header(lane, talk->payload_size);
        lane->receive_fd = load->clients[index ^ 1].fd;
        break;
    default: /* ECHO: as long as ChannelData */
        memcpy(lane->header, MAGIC, sizeof MAGIC);
        lane->header_size = 0;
    }
}

static int is_possible(const struct load *load, const struct talk *talk) {
    int64_t last = (int64_t)talk->first + (int64_t)(talk->count - 1) * talk->stride;
    int peers_needed = talk->way != PARTNERS && talk->way != ECHO;
    return talk->count > 0 && talk->first >= 0 && talk->stride > 0 && last < load->client_count &&
           (load->peer_count > 0 || !peers_needed) && (talk->way != PARTNERS || (last | 1) < load->client_count) &&
           talk->payload_size >= MIN_PAYLOAD && talk->payload_size <= MAX_PAYLOAD && talk->payload_size % 4 == 0;
}

int run_open(struct run *run, struct load *load, const struct talk *talk, struct counts *counts) {
    memset(run, 0, sizeof *run);
    memset(counts, 0, sizeof *counts);
    if (!is_possible(load, talk)) {
        errno = EINVAL;
        return -1;
    }
    run->lanes = calloc((size_t)talk->count, sizeof *run->lanes);
    if (run->lanes == NULL)
        return -1;
    run->lane_count = (uint32_t)talk->count;
    run->payload_size = talk->payload_size;
    run->number = ++load->run;
    run->counts = counts;
    for (int i = 0; i < talk->count; i++)
        set_lane(&run->lanes[i], load, talk->first + i * talk->stride, talk);
    return 0;
}

void run_close(struct run *run) {
    free(run->lanes);
    free(run->latencies_ns);
}

static size_t fill(struct run *run, uint32_t index, uint8_t *frame, uint64_t now) {
    struct lane *lane = &run->lanes[index];
    uint8_t *payload = frame + lane->header_size;
    memcpy(frame, lane->header, lane->header_size);
    memcpy(payload, MAGIC, sizeof MAGIC);
    memcpy(payload + AT_RUN, &run->number, 4);
    memcpy(payload + AT_LANE, &index, 4);
    memcpy(payload + AT_SEQUENCE, &lane->next_sequence, 8);
    memcpy(payload + AT_TIME, &now, 8);
    lane->next_sequence++;
    return lane->header_size + run->payload_size;
}

static void transmit(struct run *run, const struct mmsghdr *messages, unsigned count, int fd) {
    unsigned sent = 0;
    while (sent < count) {
        int more = sendmmsg(fd, (struct mmsghdr *)(uintptr_t)messages + sent, count - sent, 0);
        if (more <= 0) {
            run->counts->unsent++; /* the first of them; what it is counts as lost */
            more = 1;
        }
        sent += (unsigned)more;
    }
}

void run_send(struct run *run, uint32_t first, uint32_t count, uint64_t now) {
    static uint8_t frames[BATCH][FRAME_SIZE];
    static struct iovec vectors[BATCH];
    static struct mmsghdr messages[BATCH];
    uint32_t begun = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = (first + i) % run->lane_count;
        struct lane *lane = &run->lanes[index];
        vectors[i] = (struct iovec){frames[i], fill(run, index, frames[i], now)};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
        if (lane->has_to) {
            messages[i].msg_hdr.msg_name = &lane->to;
            messages[i].msg_hdr.msg_namelen = sizeof lane->to;
        }
        lane->outstanding++;
        int fd = lane->send_fd;
        int is_last = i + 1 == count || run->lanes[(first + i + 1) % run->lane_count].send_fd != fd;
        if (is_last) {
            transmit(run, messages + begun, i + 1 - begun, fd);
            begun = i + 1;
        }
    }
    run->in_flight += count;
    run->counts->sent += count;
}

static const uint8_t *payload_of(const uint8_t *bytes, size_t size, size_t *payload_size) {
    const uint8_t *payload = bytes;
    *payload_size = size;
    if (size >= STUN_HEADER_SIZE && get16(bytes) == DATA_INDICATION) {
        payload = stun_find(bytes, size, DATA, payload_size);
    } else if (size > CHANNEL_HEADER_SIZE && get16(bytes) == CHANNEL) {
        payload = bytes + CHANNEL_HEADER_SIZE;
        *payload_size = get16(bytes + 2);
        if (*payload_size > size - CHANNEL_HEADER_SIZE)
            return NULL;
    }
    int good = payload != NULL && *payload_size >= MIN_PAYLOAD && memcmp(payload, MAGIC, sizeof MAGIC) == 0;
    return good ? payload : NULL;
}

static void keep_latency(struct run *run, uint64_t sent_at) {
    if (run->latencies_ns == NULL || run->latency_count == run->latency_capacity)
        return;
    uint64_t latency = now_ns() - sent_at;
    run->latencies_ns[run->latency_count++] = latency < UINT32_MAX ? (uint32_t)latency : UINT32_MAX;
}

/* Each packet counts for one thing only: what is not this run's, not the lane's, there before, or delivered. */
static void account(struct run *run, int fd, const uint8_t *bytes, size_t size) {
    size_t payload_size;
    const uint8_t *payload = payload_of(bytes, size, &payload_size);
    uint32_t number, index;
    uint64_t sequence, sent_at;
    if (payload == NULL || (memcpy(&number, payload + AT_RUN, 4), number != run->number)) {
        run->counts->foreign++;
        return;
    }
    memcpy(&index, payload + AT_LANE, 4);
    memcpy(&sequence, payload + AT_SEQUENCE, 8);
    memcpy(&sent_at, payload + AT_TIME, 8);
    if (index >= run->lane_count || run->lanes[index].receive_fd != fd || payload_size != run->payload_size) {
        run->counts->misdelivered++;
        return;
    }
    struct lane *lane = &run->lanes[index];
    if (sequence < lane->expected_sequence) {
        run->counts->duplicated++; /* or overtaken, which no relay on one machine has a reason for */
        return;
    }
    lane->expected_sequence = sequence + 1;
    run->counts->delivered++;
    if (lane->outstanding > 0) {
        lane->outstanding--;
        lane->arrived++;
        run->in_flight--;
    }
    keep_latency(run, sent_at);
}

int run_receive(struct run *run, const struct lane *lane) {
    static uint8_t frames[BATCH][FRAME_SIZE];
    static struct iovec vectors[BATCH];
    static struct mmsghdr messages[BATCH];
    if (vectors[0].iov_base == NULL)
        for (int i = 0; i < BATCH; i++) {
            vectors[i] = (struct iovec){frames[i], FRAME_SIZE};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
        }
    unsigned wanted = lane->outstanding < 1 ? 1 : lane->outstanding > BATCH ? BATCH : lane->outstanding;
    int count = recvmmsg(lane->receive_fd, messages, wanted, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++)
        account(run, lane->receive_fd, frames[i], messages[i].msg_len);
    return count > 0 ? count : 0;
}

int run_sweep(struct run *run) {
    int total = 0, count;
    for (uint32_t i = 0; i < run->lane_count; i++)
        while ((count = run_receive(run, &run->lanes[i])) > 0)
            total += count;
    return total;
}
