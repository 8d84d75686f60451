/* Why a packet went nowhere: tavern.turn.drops.Drop, in its order. */
#ifndef TAVERN_DROPS_H
#define TAVERN_DROPS_H

#define DROPS(reason)                                                                                                  \
    reason(NO_FLOW, "no_flow")                                                                                         \
    reason(MALFORMED, "malformed")                                                                                     \
    reason(NO_CHANNEL, "no_channel")                                                                                   \
    reason(NO_PERMISSION, "no_permission")                                                                             \
    reason(NO_RELAYED_PEER, "no_relayed_peer")                                                                         \
    reason(UNPROVEN_PEER, "unproven_peer")                                                                             \
    reason(UNKNOWN_SOURCE, "unknown_source")                                                                           \
    reason(PEER_OF_ANOTHER, "peer_of_another")                                                                         \
    reason(SEND_FAILED, "send_failed")                                                                                 \
    reason(SEND_BUFFER_FULL, "send_buffer_full")                                                                       \
    reason(RECEIVE_BUFFER_FULL, "receive_buffer_full")                                                                 \
    reason(TOO_LARGE, "too_large")                                                                                     \
    reason(WOULD_FRAGMENT, "would_fragment")                                                                           \
    reason(CONTROL_QUEUE_FULL, "control_queue_full")                                                                   \
    reason(STREAM_OUTBOX_FULL, "stream_outbox_full")                                                                   \
    reason(OVER_USER_RATE, "over_user_rate")                                                                           \
    reason(OVER_RATE, "over_rate")                                                                                     \
    reason(OVER_BUDGET, "over_budget")

#define DROP_NUMBER(name, text) DROP_##name,
enum drop { DROPS(DROP_NUMBER) DROP_COUNT };

#endif
