// What a handler is told, and what a handler is: the vocabulary of the event layer.
//
// One handler type serves descriptors and timers (E3); the event tells them apart. A call carries
// exactly one event (E2). The descriptor is not passed; put it into the context (E1).

#ifndef POSTHOUSE_EVENT_EVENT_H_
#define POSTHOUSE_EVENT_EVENT_H_

namespace posthouse {

// Plain ints with the original's values, so that a callback written for it fits unchanged (E2).
inline constexpr int kEventRead = 1;
inline constexpr int kEventWrite = 2;
inline constexpr int kEventException = 4;
inline constexpr int kEventTime = 8;

using EventHandler = void (*)(int event, void* context);

}  // namespace posthouse

#endif  // POSTHOUSE_EVENT_EVENT_H_
