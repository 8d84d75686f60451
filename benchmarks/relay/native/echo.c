/* Sends every datagram back to its sender, with epoll, recvmmsg and sendmmsg and nothing in between: what the kernel
 * takes at least for a packet in and a packet out. Prints its port, and runs until it is ended. */
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { BATCH = 64, SIZE = 2048, BUFFER_SIZE = 4 << 20 };

static struct sockaddr_in senders[BATCH];
static char bytes[BATCH][SIZE];
static struct iovec vectors[BATCH];
static struct mmsghdr messages[BATCH];

static int receive(int fd) {
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){bytes[i], SIZE};
        messages[i].msg_hdr = (struct msghdr){
            .msg_iov = &vectors[i], .msg_iovlen = 1, .msg_name = &senders[i], .msg_namelen = sizeof senders[i]};
    }
    return recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
}

static void send_back(int fd, int count) {
    for (int i = 0; i < count; i++)
        vectors[i].iov_len = messages[i].msg_len;
    for (int sent = 0, more; sent < count; sent += more > 0 ? more : 1) /* one that cannot leave is left out */
        more = sendmmsg(fd, messages + sent, (unsigned)(count - sent), 0);
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_size = sizeof address;
    int size = BUFFER_SIZE, fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, address_size) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &address_size) < 0 ||
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        perror("echo");
        return 1;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;)
        if (epoll_wait(epoll, &event, 1, -1) == 1)
            for (int count; (count = receive(fd)) > 0;)
                send_back(fd, count);
}
