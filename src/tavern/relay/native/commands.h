/* How commands (turn/commands.py) are written: a type, then packed fields in this machine's byte order. */
#ifndef TAVERN_COMMANDS_H
#define TAVERN_COMMANDS_H

enum command_type {
    ADD_FLOW = 1,       /* u64 flow, client, u64 user, i32 circles (-1: none), u64 each; then as ADD_RELAYED */
    ADD_RELAYED,        /* u64 flow, address, u8 shared, i32 fd, u32 generation */
    REMOVE_RELAYED,     /* u64 flow, address */
    REMOVE_FLOW,        /* u64 flow */
    SET_CIRCLES,        /* u64 flow, i32 circles, u64 each */
    SET_PERMISSION,     /* u64 flow, address, f64 expires at, u8 relayed only, u8 own, u8 claimed, u8 targets, u64 each */
    REVOKE_PERMISSION,  /* u64 flow, address */
    BIND_CHANNEL,       /* u64 flow, u16 number, address, f64 expires at, u8 relayed only */
    UNBIND_CHANNEL,     /* u64 flow, u16 number */
    SET_TRANSFER,       /* u8 allowed */
    LEARN_PEER,         /* u64 flow, address */
    ADD_OWN_HOST,       /* u8 shared, address */
    REMOVE_OWN_HOST,    /* address */
    SEND_TO_CLIENT,     /* client, data */
    FROM_STREAM,        /* u32 link, u32 counted size; then for each frame u32 size, data */
    TO_STREAM,          /* u32 link, u8 whether it ends, data */
};

#endif
