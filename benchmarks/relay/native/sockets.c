/* Opening and closing a load's sockets. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loadgen.h"

enum { BUFFER_SIZE = 4 << 20 }; /* bytes: what is lost is to be the server's */

static int open_socket(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int size = BUFFER_SIZE;
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    return fd;
}

static int open_peers(struct peer *peers, int count) {
    for (int i = 0; i < count; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof address;
        peers[i].fd = open_socket();
        if (peers[i].fd < 0 || bind(peers[i].fd, (struct sockaddr *)&address, size) < 0 ||
            getsockname(peers[i].fd, (struct sockaddr *)&peers[i].address, &size) < 0)
            return -1;
    }
    return 0;
}

static int open_clients(struct load *load, const char *usernames, const uint8_t *keys) {
    for (int i = 0; i < load->client_count; i++) {
        struct client *client = &load->clients[i];
        memcpy(client->username, usernames + (size_t)i * USERNAME_SIZE, USERNAME_SIZE);
        client->username[USERNAME_SIZE - 1] = 0;
        memcpy(client->key, keys + (size_t)i * KEY_SIZE, KEY_SIZE);
        client->fd = open_socket();
        if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&load->server, sizeof load->server) < 0)
            return -1;
    }
    return 0;
}

static void close_peers(struct peer *peers, int count) {
    for (int i = 0; peers != NULL && i < count; i++)
        if (peers[i].fd >= 0)
            close(peers[i].fd);
    free(peers);
}

void load_close(struct load *load) {
    for (int i = 0; load->clients != NULL && i < load->client_count; i++)
        if (load->clients[i].fd >= 0)
            close(load->clients[i].fd);
    free(load->clients);
    close_peers(load->channel_peers, load->peer_count);
    close_peers(load->other_peers, load->peer_count);
    free(load);
}

static struct peer *new_peers(int count) {
    struct peer *peers = calloc((size_t)count + 1, sizeof *peers);
    for (int i = 0; peers != NULL && i < count; i++)
        peers[i].fd = -1;
    return peers;
}

/* Sockets for `clients` clients, with a username of USERNAME_SIZE bytes and a key each, and for their peers.
 * NULL with errno set if they cannot be opened, and then none stays open. */
struct load *load_open(uint16_t server_port, int clients, int peers, const char *usernames, const uint8_t *keys) {
    struct load *load = calloc(1, sizeof *load);
    if (load == NULL)
        return NULL;
    load->server = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(server_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    load->client_count = clients;
    load->peer_count = peers;
    load->clients = calloc((size_t)clients, sizeof *load->clients);
    load->channel_peers = new_peers(peers);
    load->other_peers = new_peers(peers);
    for (int i = 0; load->clients != NULL && i < clients; i++)
        load->clients[i].fd = -1;
    if (load->clients == NULL || load->channel_peers == NULL || load->other_peers == NULL ||
        open_clients(load, usernames, keys) < 0 || open_peers(load->channel_peers, peers) < 0 ||
        open_peers(load->other_peers, peers) < 0) {
        int error = errno;
        load_close(load);
        errno = error;
        return NULL;
    }
    return load;
}

/* The descriptor of a client's socket, which stays the load's. */
int load_client_fd(const struct load *load, int index) { return load->clients[index].fd; }
