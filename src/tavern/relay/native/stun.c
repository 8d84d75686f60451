#include "stun.h"

enum {
    DATA_INDICATION = 0x0017,
    XOR_PEER_ADDRESS = 0x0012,
    DATA = 0x0013,
    DONT_FRAGMENT = 0x001A,
    XOR_MAPPED_ADDRESS = 0x0020,
    ICMP = 0x8004,
    MAX_ATTRIBUTES = 16, /* clients send two to four, browsers answer with eight; 16,000 fit into a datagram */
};

static const uint8_t COOKIE[4] = {0x21, 0x12, 0xA4, 0x42};

static size_t padding(size_t size)
{
    return -size & 3;
}

bool stun_has_cookie(const uint8_t *data)
{
    return memcmp(data + 4, COOKIE, sizeof COOKIE) == 0;
}

bool stun_is(const uint8_t *data, size_t size, uint16_t type)
{
    return size >= STUN_HEADER_SIZE && read_16(data) == type && read_16(data + 2) == size - STUN_HEADER_SIZE &&
           stun_has_cookie(data);
}

bool stun_is_plain_binding(const uint8_t *data, size_t size)
{
    return size == STUN_HEADER_SIZE && stun_is(data, size, BINDING_REQUEST);
}

/* Where the first attribute of this type begins; 0 without one. */
static size_t find(const uint8_t *data, size_t size, uint16_t type)
{
    size_t offset = STUN_HEADER_SIZE;
    for (int left = MAX_ATTRIBUTES; left > 0 && offset + 4 <= size; left--) {
        if (read_16(data + offset) == type)
            return offset;
        size_t length = read_16(data + offset + 2);
        offset += 4 + length + padding(length);
    }
    return 0;
}

bool stun_has(const uint8_t *data, size_t size, uint16_t type)
{
    return find(data, size, type) != 0;
}

bool stun_find(const uint8_t *data, size_t size, uint16_t type, const uint8_t **value, size_t *value_size)
{
    size_t offset = find(data, size, type);
    if (offset == 0 || read_16(data + offset + 2) > size - offset - 4)
        return false;
    *value = data + offset + 4;
    *value_size = read_16(data + offset + 2);
    return true;
}

/* The value of a XOR-...-ADDRESS attribute, 8 or 20 bytes; its size. `header` has cookie and transaction id. */
static size_t write_address(uint8_t *value, const struct address *address, const uint8_t *header)
{
    size_t ip_size = address->family == IPV4 ? 4 : 16;
    value[0] = 0;
    value[1] = address->family == IPV4 ? 1 : 2;
    write_16(value + 2, address->port ^ read_16(COOKIE));
    for (size_t at = 0; at < ip_size; at++)
        value[4 + at] = address->ip[at] ^ header[4 + at];
    return 4 + ip_size;
}

static bool read_address(const uint8_t *value, size_t size, const uint8_t *header, struct address *address)
{
    memset(address, 0, sizeof *address);
    if (size == 8 && value[1] == 1)
        address->family = IPV4;
    else if (size == 20 && value[1] == 2)
        address->family = IPV6;
    else
        return false;
    address->port = read_16(value + 2) ^ read_16(COOKIE);
    for (size_t at = 0; at < size - 4; at++)
        address->ip[at] = value[4 + at] ^ header[4 + at];
    return true;
}

static void write_header(uint8_t *to, unsigned type, size_t length, const uint8_t *transaction)
{
    write_16(to, type);
    write_16(to + 2, (unsigned)length);
    memcpy(to + 4, COOKIE, 4);
    memcpy(to + 8, transaction, 12);
}

static void write_attribute(uint8_t *to, unsigned type, size_t length)
{
    write_16(to, type);
    write_16(to + 2, (unsigned)length);
}

size_t stun_binding_answer(const uint8_t *request, const struct address *client, uint8_t *answer)
{
    size_t value_size = client->family == IPV4 ? 8 : 20;
    write_header(answer, BINDING_SUCCESS, 4 + value_size, request + 8);
    write_attribute(answer + STUN_HEADER_SIZE, XOR_MAPPED_ADDRESS, value_size);
    write_address(answer + STUN_HEADER_SIZE + 4, client, answer);
    return STUN_HEADER_SIZE + 4 + value_size;
}

/* Comprehension-required, but without meaning in an indication that nobody authenticates. */
static bool is_ignored(unsigned type)
{
    return type >= 0x8000 || type == 0x0001 || type == 0x0006 || type == 0x0014 || type == 0x0015 || type == 0x0020;
}

static bool read_attributes(uint8_t *data, size_t size, struct send_indication *read)
{
    bool has_peer = false;
    size_t offset = STUN_HEADER_SIZE;
    for (int left = MAX_ATTRIBUTES; offset < size; left--) {
        if (left == 0)
            return false;
        unsigned type = read_16(data + offset);
        size_t length = read_16(data + offset + 2);
        uint8_t *value = data + offset + 4;
        if (length > size - offset - 4)
            return false;
        offset += 4 + length + padding(length);
        if (type == XOR_PEER_ADDRESS) {
            if (!has_peer && !read_address(value, length, data, &read->peer))
                return false;
            has_peer = true;
        } else if (type == DATA) {
            if (read->payload == NULL) {
                read->payload = value;
                read->payload_size = length;
            }
        } else if (type == DONT_FRAGMENT) {
            read->dont_fragment = true;
        } else if (type == MESSAGE_INTEGRITY) {
            break; /* what follows it is ignored */
        } else if (!is_ignored(type)) {
            return false;
        }
    }
    return has_peer && read->payload != NULL;
}

bool stun_read_send(uint8_t *data, size_t size, struct send_indication *read)
{
    memset(read, 0, sizeof *read);
    if (read_16(data + 2) != size - STUN_HEADER_SIZE || size & 3)
        return false; /* whole attributes only: each one's head is there where one begins */
    return read_attributes(data, size, read);
}

uint8_t *stun_frame_data(uint8_t *payload, size_t payload_size, const struct address *peer, const uint8_t *transaction,
                         size_t *size)
{
    size_t value_size = peer->family == IPV4 ? 8 : 20;
    size_t head_size = STUN_HEADER_SIZE + 4 + value_size + 4;
    size_t padded = payload_size + padding(payload_size);
    uint8_t *head = payload - head_size;
    write_header(head, DATA_INDICATION, head_size - STUN_HEADER_SIZE + padded, transaction);
    write_attribute(head + STUN_HEADER_SIZE, XOR_PEER_ADDRESS, value_size);
    write_address(head + STUN_HEADER_SIZE + 4, peer, head);
    write_attribute(payload - 4, DATA, payload_size);
    memset(payload + payload_size, 0, padded - payload_size);
    *size = head_size + padded;
    return head;
}

size_t stun_frame_icmp(uint8_t *to, const struct address *peer, const uint8_t *transaction, unsigned type, unsigned code,
                       uint32_t mtu)
{
    bool ipv4 = peer->family == IPV4;
    /* Destination unreachable and time exceeded; in ICMPv6 also packet too big, which ICMP says by a code (§11.5). */
    bool known = ipv4 ? type == 3 || type == 11 : type >= 1 && type <= 3;
    bool too_big = ipv4 ? type == 3 && code == 4 : type == 2;
    if (!known)
        return 0;
    size_t value_size = ipv4 ? 8 : 20;
    write_header(to, DATA_INDICATION, 4 + value_size + 12, transaction);
    uint8_t *attribute = to + STUN_HEADER_SIZE;
    write_attribute(attribute, XOR_PEER_ADDRESS, value_size);
    write_address(attribute + 4, peer, to);
    attribute += 4 + value_size;
    uint32_t error_data = too_big ? mtu : 0;
    write_attribute(attribute, ICMP, 8);
    write_16(attribute + 4, 0);
    write_16(attribute + 6, type << 9 | (code & 0x1FF)); /* 7 bits of type, 9 of code */
    write_16(attribute + 8, error_data >> 16);
    write_16(attribute + 10, error_data & 0xFFFF);
    return STUN_HEADER_SIZE + 4 + value_size + 12;
}
