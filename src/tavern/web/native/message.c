#include "message.h"

#include <string.h>

struct reader {
    const uint8_t *at, *end;
};

static void skip_blanks(struct reader *reader)
{
    while (reader->at < reader->end &&
           (*reader->at == ' ' || *reader->at == '\t' || *reader->at == '\n' || *reader->at == '\r'))
        reader->at++;
}

static bool skip(struct reader *reader, uint8_t expected)
{
    skip_blanks(reader);
    if (reader->at == reader->end || *reader->at != expected)
        return false;
    reader->at++;
    return true;
}

enum kind { PLAIN, QUOTE, ESCAPE, OTHER };

static const uint8_t kinds[256] = {
    [0 ... 0x1f] = OTHER, ['"'] = QUOTE, ['\\'] = ESCAPE, [0x80 ... 0xff] = OTHER,
};

/* A string in its quotes. `\/` and `\u` can hide what is looked for, and are no plain words. */
static bool read_string(struct reader *reader, struct span *string)
{
    skip_blanks(reader);
    const uint8_t *at = reader->at, *end = reader->end;
    if (at == end || *at != '"')
        return false;
    for (at++; at < end; at++) {
        uint8_t kind = kinds[*at];
        if (kind == PLAIN)
            continue;
        if (kind == QUOTE) {
            *string = (struct span){reader->at, (size_t)(at + 1 - reader->at)};
            reader->at = at + 1;
            return true;
        }
        if (kind == OTHER || ++at == end || *at == 0 || !strchr("\"\\bfnrt", *at))
            return false;
    }
    return false;
}

static bool is_named(struct span name, const char *expected)
{
    size_t size = strlen(expected);
    return name.size == size && memcmp(name.at, expected, size) == 0;
}

static bool is_known(const struct message *message, struct span name)
{
    for (unsigned at = 0; at < message->kept; at++)
        if (span_equal(message->names[at], name))
            return true;
    return false;
}

/* Takes one member; false for one too many, and for one that is there already where it is passed on. */
static bool take(struct message *message, struct span name, struct span value, struct span *from)
{
    struct span *own = is_named(name, "\"type\"")     ? &message->type
                       : is_named(name, "\"target\"") ? &message->target
                       : is_named(name, "\"from\"")   ? from
                                                      : NULL;
    if (own) {
        *own = value;
        return true;
    }
    if (message->kept == MAX_KEPT || is_known(message, name))
        return false;
    if (is_named(name, "\"tavernId\""))
        message->tavern_id = value;
    else if (is_named(name, "\"channelId\""))
        message->channel_id = value;
    message->names[message->kept] = name;
    message->values[message->kept++] = value;
    return true;
}

/* The member that a message of this type must have. */
static const char *content_of(struct span type)
{
    if (is_named(type, "\"offer\"") || is_named(type, "\"answer\""))
        return "\"sdp\"";
    return is_named(type, "\"ice-candidate\"") ? "\"candidate\"" : NULL;
}

bool message_read(const uint8_t *data, size_t size, struct message *message)
{
    struct reader reader = {data, data + size};
    struct span from = {0};
    message->type = message->target = message->content = message->tavern_id = message->channel_id = from;
    message->kept = 0;
    if (!skip(&reader, '{'))
        return false;
    do {
        struct span name, value;
        if (!read_string(&reader, &name) || !skip(&reader, ':') || !read_string(&reader, &value) ||
            !take(message, name, value, &from))
            return false;
    } while (skip(&reader, ','));
    if (!skip(&reader, '}'))
        return false;
    skip_blanks(&reader);
    const char *content = message->type.at ? content_of(message->type) : NULL;
    if (reader.at != reader.end || !content || !message->target.at ||
        memchr(message->target.at, '\\', message->target.size)) /* written in more than one way */
        return false;
    for (unsigned at = 0; at < message->kept; at++)
        if (is_named(message->names[at], content))
            message->content = message->values[at];
    return message->content.at != NULL;
}

static uint8_t *append(uint8_t *to, const void *data, size_t size)
{
    memcpy(to, data, size);
    return to + size;
}

size_t message_write(const struct message *message, struct span from, uint8_t *to)
{
    uint8_t *at = append(to, "{\"type\":", 8);
    at = append(at, message->type.at, message->type.size);
    at = append(at, ",\"from\":", 8);
    at = append(at, from.at, from.size);
    for (unsigned member = 0; member < message->kept; member++) {
        *at++ = ',';
        at = append(at, message->names[member].at, message->names[member].size);
        *at++ = ':';
        at = append(at, message->values[member].at, message->values[member].size);
    }
    *at++ = '}';
    return (size_t)(at - to);
}

/* RFC 8839 section 5.1, as far as it is looked at: foundation, component, transport, priority, address, port, type. */

static bool is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_ice_char(uint8_t byte)
{
    return is_digit(byte) || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte == '_' ||
           byte == '+' || byte == '/';
}

static bool is_of_address(uint8_t byte)
{
    return is_digit(byte) || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F') || byte == '.' ||
           byte == ':';
}

/* A word of so many bytes of one kind, and a blank. */
static bool read_word(struct reader *reader, bool (*is_of_it)(uint8_t), size_t least, size_t most, struct span *word)
{
    const uint8_t *at = reader->at;
    while (at < reader->end && is_of_it(*at))
        at++;
    *word = (struct span){reader->at, (size_t)(at - reader->at)};
    if (word->size < least || word->size > most || at == reader->end || *at != ' ')
        return false;
    reader->at = at + 1;
    return true;
}

static bool read_literal(struct reader *reader, const char *literal, bool any_case)
{
    for (; *literal; literal++, reader->at++)
        if (reader->at == reader->end || (*reader->at | (any_case ? 0x20 : 0)) != (uint8_t)*literal)
            return false;
    return true;
}

static bool read_candidate(struct reader *reader, struct span *address)
{
    struct span word;
    return read_word(reader, is_ice_char, 1, 32, &word) && read_word(reader, is_digit, 1, 5, &word) &&
           read_literal(reader, "udp", true) && read_literal(reader, " ", false) &&
           read_word(reader, is_digit, 1, 10, &word) && read_word(reader, is_of_address, 2, 45, address) &&
           read_word(reader, is_digit, 1, 5, &word) && read_literal(reader, "typ ", false);
}

bool candidate_next(struct span content, size_t *offset, struct span *address)
{
    static const char beginning[] = "candidate:";
    const uint8_t *at = content.at + *offset, *end = content.at + content.size;
    while ((at = memmem(at, (size_t)(end - at), beginning, sizeof beginning - 1))) {
        at += sizeof beginning - 1;
        struct reader reader = {at, end};
        if (read_candidate(&reader, address)) {
            *offset = (size_t)(reader.at - content.at);
            return true;
        }
    }
    return false;
}
