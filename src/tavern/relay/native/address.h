/* An IP address with a port, comparable byte by byte. */
#ifndef TAVERN_ADDRESS_H
#define TAVERN_ADDRESS_H

#include "map.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

enum { IPV4 = 4, IPV6 = 6 };

struct address {
    uint8_t ip[16]; /* network order; of IPv4 the first four, the others are 0 */
    uint32_t scope; /* of a link-local IPv6 address the interface, else 0 */
    uint16_t port;
    uint16_t family; /* IPV4 or IPV6 */
};

static inline bool address_equal(const struct address *one, const struct address *other)
{
    return memcmp(one, other, sizeof *one) == 0;
}

static inline uint64_t address_hash(const struct address *address)
{
    return hash_bytes(address, sizeof *address);
}

static inline struct address address_host(struct address address)
{
    address.port = 0;
    return address;
}

/* Of `relayed`, of which a flow has one for each family. */
static inline int family_index(const struct address *address)
{
    return address->family == IPV6;
}

static inline void address_from_sockaddr(struct address *address, const struct sockaddr_storage *from)
{
    memset(address, 0, sizeof *address);
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)from;
        memcpy(address->ip, &ipv4->sin_addr, 4);
        address->port = ntohs(ipv4->sin_port);
        address->family = IPV4;
    } else {
        const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)from;
        memcpy(address->ip, &ipv6->sin6_addr, 16);
        address->scope = ipv6->sin6_scope_id;
        address->port = ntohs(ipv6->sin6_port);
        address->family = IPV6;
    }
}

/* Its size. */
static inline socklen_t address_to_sockaddr(const struct address *address, struct sockaddr_storage *to)
{
    if (address->family == IPV4) {
        struct sockaddr_in *ipv4 = (struct sockaddr_in *)to;
        memset(ipv4, 0, sizeof *ipv4);
        ipv4->sin_family = AF_INET;
        ipv4->sin_port = htons(address->port);
        memcpy(&ipv4->sin_addr, address->ip, 4);
        return sizeof *ipv4;
    }
    struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)to;
    memset(ipv6, 0, sizeof *ipv6);
    ipv6->sin6_family = AF_INET6;
    ipv6->sin6_port = htons(address->port);
    ipv6->sin6_scope_id = address->scope;
    memcpy(&ipv6->sin6_addr, address->ip, 16);
    return sizeof *ipv6;
}

#endif
