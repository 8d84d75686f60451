#include "loop.h"

#include <linux/errqueue.h>

enum {
    LISTENER_BATCH = 64,
    LISTENER_DRAIN = 128, /* all clients share a listener */
    FEW_READY = 8,       /* sockets, among which each is served in every turn */
    RELAY_DRAIN = 32,     /* a flooded allocation waits for the others after so many */
    ICMP_DRAIN = 16,      /* a flood of ICMP waits for the other sockets after so many */
    /* Of a shared socket more than a turn's packets cause: errors take the place of other clients' packets. */
    SHARED_ICMP_DRAIN = 1024,
    ICMP_ROOM = 72,
};

uint8_t *take_slot(struct data_path *path)
{
    if (path->slots_used == SLOTS)
        free_slots(path);
    return path->slots + (size_t)SLOT_SIZE * path->slots_used++ + HEADROOM;
}

void prepare_receiving(struct data_path *path)
{
    for (uint32_t at = 0; at < SLOTS; at++) {
        path->received_data[at].iov_base = path->slots + (size_t)SLOT_SIZE * at + HEADROOM;
        path->received_data[at].iov_len = MAX_DATAGRAM;
        struct msghdr *message = &path->received[at].msg_hdr;
        message->msg_name = &path->received_from[at];
        message->msg_iov = &path->received_data[at];
        message->msg_iovlen = 1;
        message->msg_control = path->received_control[at];
    }
}

/* One datagram into slot `at`: without headers for many, and without a second look into a socket that had one. */
static bool receive_one(struct data_path *path, int fd, bool has_local, uint32_t at)
{
    struct mmsghdr *received = &path->received[at];
    struct msghdr *message = &received->msg_hdr;
    ssize_t size;
    message->msg_namelen = sizeof path->received_from[at];
    message->msg_controllen = sizeof path->received_control[at];
    if (has_local)
        size = recvmsg(fd, message, MSG_DONTWAIT);
    else
        size = recvfrom(fd, message->msg_iov->iov_base, MAX_DATAGRAM, MSG_DONTWAIT, message->msg_name,
                        &message->msg_namelen);
    if (size < 0)
        return false;
    received->msg_len = (unsigned)size;
    return true;
}

/* Up to `most` datagrams into as many slots from the first free one, which is `*first`; how many came. */
static uint32_t receive(struct data_path *path, int fd, bool has_local, uint32_t most, uint32_t *first)
{
    if (path->slots_used + most > SLOTS)
        free_slots(path);
    *first = path->slots_used;
    if (most == 1) {
        uint32_t came = receive_one(path, fd, has_local, *first);
        path->slots_used += came;
        return came;
    }
    struct mmsghdr *received = &path->received[*first];
    for (uint32_t at = 0; at < most; at++) { /* where the kernel has written sizes the last time */
        received[at].msg_hdr.msg_namelen = sizeof path->received_from[0];
        received[at].msg_hdr.msg_controllen = sizeof path->received_control[0];
    }
    int count = recvmmsg(fd, received, most, MSG_DONTWAIT, NULL);
    if (count <= 0)
        return 0; /* nothing is left; or an ICMP error of an earlier send, after which epoll tells of the rest */
    path->slots_used += (uint32_t)count;
    return (uint32_t)count;
}

static void to_control(struct data_path *path, const struct client *client, const uint8_t *data, size_t size)
{
    bool has_flow = flow_of_client(path->core, client) != NULL;
    if (control_put(path->control, client, data, size, path->now, has_flow))
        path->tell = true;
}

void act(struct data_path *path, const struct output *output)
{
    if (output->kind == OUT_TO_PEER) {
        send_to_peer(path, output);
    } else if (output->kind == OUT_TO_CLIENT) {
        const struct client *client = &output->flow->client;
        if (client->link == 0) {
            send_to_client(path, client, output->data, output->size);
        } else {
            if (!streams_put_media(&path->streams, client->link, output->data, output->size))
                count_up(&path->core->drops[DROP_STREAM_OUTBOX_FULL], 1);
            path->tell = true;
        }
    } else if (output->kind == OUT_UNFRAGMENTED) {
        send_unfragmented(path, output);
    }
}

static void read_local(struct msghdr *message, uint8_t *local)
{
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO)
            memcpy(local, CMSG_DATA(header) + offsetof(struct in_pktinfo, ipi_spec_dst), 4);
        else if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_PKTINFO)
            memcpy(local, CMSG_DATA(header), 16);
    }
}

static void from_client(struct data_path *path, uint32_t index, uint32_t at)
{
    struct mmsghdr *received = &path->received[at];
    uint8_t *data = path->received_data[at].iov_base;
    size_t size = received->msg_len;
    struct client client = {.listener = index};
    struct output output;
    address_from_sockaddr(&client.address, &path->received_from[at]);
    if (path->listeners[index].has_local)
        read_local(&received->msg_hdr, client.local);
    core_from_client(path->core, &client, data, size, path->now, true, &output);
    if (output.kind == OUT_CONTROL)
        to_control(path, &client, data, size);
    else if (output.kind == OUT_REPLY)
        send_to_client(path, &client, output.data, output.size);
    else
        act(path, &output);
}

/* How many the socket is asked for the next time: more where it always has some, one where it is waited for. */
static void adapt(struct data_path *path, struct open_socket *sock, uint32_t count)
{
    bool is_always_ready = !path->has_slept && sock->last_turn + 1 == path->turn;
    /* Among many that are ready nobody's turn follows the last one: who is many allocations' gets more all the same. */
    bool is_busy = count == sock->at_once && (is_always_ready || (sock->kind == SHARED && path->ready > FEW_READY));
    uint32_t next = is_busy ? 2 * count : count;
    sock->at_once = (uint8_t)(next > RELAY_DRAIN ? RELAY_DRAIN : next > 0 ? next : 1);
    sock->last_turn = path->turn;
}

void drain_listener(struct data_path *path, struct open_socket *sock)
{
    const struct listener *listener = &path->listeners[sock->index];
    uint32_t count, first;
    /* Only one packet that was waited for is asked for alone: beside others, all clients' share is a whole batch. */
    uint32_t most = path->has_slept && path->ready == 1 ? 1 : LISTENER_BATCH;
    for (uint32_t done = 0; done < LISTENER_DRAIN; done += count) {
        count = receive(path, listener->fd, listener->has_local, most, &first);
        for (uint32_t at = first; at < first + count; at++)
            from_client(path, sock->index, at);
        if (count < LISTENER_BATCH)
            break; /* epoll tells of the rest */
    }
}

void drain_relay(struct data_path *path, struct open_socket *sock, int fd)
{
    uint32_t first, count = receive(path, fd, false, sock->at_once, &first);
    adapt(path, sock, count);
    for (uint32_t at = first; at < first + count; at++) {
        uint8_t *data = path->received_data[at].iov_base;
        struct address peer;
        struct output output;
        address_from_sockaddr(&peer, &path->received_from[at]);
        if (sock->kind == SHARED)
            core_from_shared(path->core, sock->port, data, path->received[at].msg_len, &peer, path->now, &output);
        else
            core_from_peer(path->core, sock->flow, data, path->received[at].msg_len, &peer, path->now, &output);
        act(path, &output);
    }
}

static bool is_icmp(const struct cmsghdr *header)
{
    return (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_RECVERR) ||
           (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_RECVERR);
}

static void from_icmp(struct data_path *path, struct open_socket *sock, struct msghdr *message)
{
    struct address peer;
    address_from_sockaddr(&peer, message->msg_name);
    struct flow *flow = sock->flow;
    if (sock->kind == SHARED) {
        const struct peer *owner = port_owner(sock->port, &peer);
        flow = owner == NULL ? NULL : owner->flow;
    }
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
        struct sock_extended_err error;
        if (flow == NULL || !is_icmp(header) || header->cmsg_len < CMSG_LEN(sizeof error))
            continue;
        memcpy(&error, CMSG_DATA(header), sizeof error);
        if (error.ee_origin != SO_EE_ORIGIN_ICMP && error.ee_origin != SO_EE_ORIGIN_ICMP6)
            continue; /* this host's own errors */
        struct output output;
        core_from_icmp(path->core, flow, &peer, error.ee_type, error.ee_code, error.ee_info, path->now, take_slot(path),
                       &output);
        act(path, &output);
    }
}

void read_icmp_errors(struct data_path *path, struct open_socket *sock, int fd)
{
    for (int left = sock->kind == SHARED ? SHARED_ICMP_DRAIN : ICMP_DRAIN; left > 0; left--) {
        struct sockaddr_storage peer = {0};
        _Alignas(8) uint8_t control[128];
        struct msghdr message = {
            .msg_name = &peer, .msg_namelen = sizeof peer, .msg_control = control, .msg_controllen = sizeof control};
        if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
            /* It is empty; then an error stays for which there was no room in it. */
            int error;
            socklen_t size = sizeof error;
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
            return;
        }
        if (message.msg_namelen > 0)
            from_icmp(path, sock, &message);
    }
}
