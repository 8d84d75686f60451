#include "loop.h"

#include <errno.h>

#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* Linux 4.18 */
#endif

enum {
    TRIES_AFTER_ERRORS = 3, /* one is enough unless the next ICMP message comes within these microseconds */
    MAX_SEGMENTS = 64,      /* the kernel's limit */
    MAX_SEGMENT_SIZE = 1400, /* more may not fit through an interface, and is refused */
    MAX_SEGMENTS_SIZE = 60000,
    /* Not every kernel and interface can do it: they are asked again after so many batches. */
    RUNS_AFTER_REFUSAL = 1024,
};

static void count_unsent(struct data_path *path, int error)
{
    enum drop reason = error == EAGAIN || error == EWOULDBLOCK ? DROP_SEND_BUFFER_FULL
                       : error == EMSGSIZE                     ? DROP_WOULD_FRAGMENT
                                                               : DROP_SEND_FAILED;
    count_up(&path->core->drops[reason], 1);
}

static struct mmsghdr *prepare(struct data_path *path, uint32_t at, struct leaving *leaving)
{
    struct msghdr *message = &path->sent[at].msg_hdr;
    message->msg_name = &leaving->to;
    message->msg_namelen = leaving->to_size;
    message->msg_iov = &leaving->data;
    message->msg_iovlen = 1;
    message->msg_control = leaving->control_size ? leaving->control : NULL;
    message->msg_controllen = leaving->control_size;
    message->msg_flags = 0;
    return &path->sent[at];
}

/* After `error`, which may be what ICMP said of an earlier packet to somebody else: the kernel says it once. */
static void send_again(struct data_path *path, const struct leaving *leaving, struct mmsghdr *message, int error)
{
    for (int left = TRIES_AFTER_ERRORS; left > 0 && leaving->is_relay && error != EAGAIN; left--) {
        if (sendmsg(leaving->fd, &message->msg_hdr, MSG_DONTWAIT) >= 0)
            return;
        error = errno;
    }
    count_unsent(path, error);
}

/* Whether it has left: the cheapest call for most of what goes to peers, each of which has a socket of its own. */
static bool send_one(const struct leaving *leaving)
{
    return leaving->control_size == 0 && sendto(leaving->fd, leaving->data.iov_base, leaving->data.iov_len,
                                                MSG_DONTWAIT, (const struct sockaddr *)&leaving->to,
                                                leaving->to_size) >= 0;
}

/* How many of these packets of one socket the kernel can cut out of one (UDP_SEGMENT): 1 where there is nothing to gain.

All go to the same place and are of the same size, but the last, which may be smaller. */
static uint32_t count_segments(const struct leaving *leaving, uint32_t count)
{
    size_t size = leaving->data.iov_len, total = size;
    uint32_t segments = 1;
    bool has_port = ((const struct sockaddr_in *)&leaving->to)->sin_port != 0; /* nothing is sent to none: EINVAL */
    if (size == 0 || size > MAX_SEGMENT_SIZE || !has_port)
        return 1;
    for (; segments < count && segments < MAX_SEGMENTS; segments++) {
        const struct leaving *next = &leaving[segments];
        total += next->data.iov_len;
        if (next->data.iov_len == 0 || next->data.iov_len > size || total > MAX_SEGMENTS_SIZE ||
            memcmp(&next->to, &leaving->to, leaving->to_size) != 0 || next->control_size != leaving->control_size ||
            memcmp(next->control, leaving->control, leaving->control_size) != 0)
            break;
        if (next->data.iov_len < size)
            return segments + 1;
    }
    return segments;
}

/* Whether they have left, as one packet through the stack that becomes many at its end; else nothing has. */
static bool send_segments(struct data_path *path, const struct leaving *leaving, uint32_t count)
{
    struct iovec parts[MAX_SEGMENTS];
    _Alignas(8) uint8_t control[128];
    for (uint32_t at = 0; at < count; at++)
        parts[at] = leaving[at].data;
    memcpy(control, leaving->control, leaving->control_size);
    struct cmsghdr *header = (struct cmsghdr *)(control + leaving->control_size);
    uint16_t size = (uint16_t)leaving->data.iov_len;
    header->cmsg_level = IPPROTO_UDP;
    header->cmsg_type = UDP_SEGMENT;
    header->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(header), &size, sizeof size);
    struct msghdr message = {.msg_name = (void *)&leaving->to,
                             .msg_namelen = leaving->to_size,
                             .msg_iov = parts,
                             .msg_iovlen = count,
                             .msg_control = control,
                             .msg_controllen = leaving->control_size + CMSG_SPACE(sizeof size)};
    if (sendmsg(leaving->fd, &message, MSG_DONTWAIT) >= 0)
        return true;
    /* Others than these are about this destination or this moment: the packets are tried one by one. */
    if (errno == EINVAL || errno == EIO || errno == EOPNOTSUPP || errno == ENOPROTOOPT)
        path->runs_without_segments = RUNS_AFTER_REFUSAL;
    return false;
}

/* Sends `count` packets of one socket. */
static void send_run(struct data_path *path, struct leaving *leaving, uint32_t count)
{
    while (count > 1 && path->runs_without_segments == 0) {
        uint32_t segments = count_segments(leaving, count);
        if (segments == 1 || !send_segments(path, leaving, segments))
            break;
        leaving += segments;
        count -= segments;
    }
    if (path->runs_without_segments > 0)
        path->runs_without_segments--;
    if (count == 0 || (count == 1 && send_one(leaving)))
        return;
    for (uint32_t at = 0; at < count; at++)
        prepare(path, at, &leaving[at]);
    uint32_t done = 0;
    while (done < count) {
        int sent = sendmmsg(leaving->fd, path->sent + done, count - done, MSG_DONTWAIT);
        if (sent > 0) {
            done += (uint32_t)sent;
            continue;
        }
        send_again(path, &leaving[done], &path->sent[done], errno);
        done++;
    }
}

static void send_all(struct data_path *path, struct leaving *leaving, uint32_t count)
{
    for (uint32_t first = 0, next; first < count; first = next) {
        for (next = first + 1; next < count && leaving[next].fd == leaving[first].fd; next++)
            ;
        send_run(path, leaving + first, next - first);
    }
}

void flush(struct data_path *path)
{
    send_all(path, path->to_peers, path->to_peers_count);
    send_all(path, path->to_clients, path->to_clients_count);
    path->to_peers_count = path->to_clients_count = 0;
}

void free_slots(struct data_path *path)
{
    flush(path);
    path->slots_used = 0;
}

/* What makes a packet leave from the address that its client sends to; its size. */
static size_t write_local(uint8_t *control, const struct client *client)
{
    struct msghdr message = {.msg_control = control, .msg_controllen = 64};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (client->address.family == IPV4) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, client->local, 4);
        header->cmsg_level = IPPROTO_IP;
        header->cmsg_type = IP_PKTINFO;
        header->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(header), &info, sizeof info);
        return CMSG_SPACE(sizeof info);
    }
    struct in6_pktinfo info = {0};
    memcpy(&info.ipi6_addr, client->local, 16);
    header->cmsg_level = IPPROTO_IPV6;
    header->cmsg_type = IPV6_PKTINFO;
    header->cmsg_len = CMSG_LEN(sizeof info);
    memcpy(CMSG_DATA(header), &info, sizeof info);
    return CMSG_SPACE(sizeof info);
}

void send_to_client(struct data_path *path, const struct client *client, uint8_t *data, size_t size)
{
    const struct listener *listener = &path->listeners[client->listener];
    struct leaving *leaving = &path->to_clients[path->to_clients_count++];
    leaving->fd = listener->fd;
    leaving->is_relay = false;
    leaving->data = (struct iovec){data, size};
    leaving->to_size = address_to_sockaddr(&client->address, &leaving->to);
    leaving->control_size = listener->has_local ? write_local(leaving->control, client) : 0;
}

void send_to_peer(struct data_path *path, const struct output *output)
{
    struct leaving *leaving = &path->to_peers[path->to_peers_count++];
    leaving->fd = output->flow->relayed[family_index(&output->peer)].fd;
    leaving->is_relay = true;
    leaving->data = (struct iovec){output->data, output->size};
    leaving->to_size = address_to_sockaddr(&output->peer, &leaving->to);
    leaving->control_size = 0;
}

void send_unfragmented(struct data_path *path, const struct output *output)
{
    flush(path); /* what came before leaves before, and as it should */
    bool ipv4 = output->peer.family == IPV4;
    int level = ipv4 ? IPPROTO_IP : IPPROTO_IPV6, option = ipv4 ? IP_MTU_DISCOVER : IPV6_MTU_DISCOVER;
    int never = ipv4 ? IP_PMTUDISC_PROBE : IPV6_PMTUDISC_PROBE;
    int usual = ipv4 ? IP_PMTUDISC_OMIT : IPV6_PMTUDISC_WANT; /* as sockets.py opens them */
    int fd = output->flow->relayed[family_index(&output->peer)].fd;
    if (setsockopt(fd, level, option, &never, sizeof never) < 0)
        return count_unsent(path, errno);
    send_to_peer(path, output);
    flush(path);
    setsockopt(fd, level, option, &usual, sizeof usual);
}
