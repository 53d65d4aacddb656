// Tiles of partial solutions that are near each other: the filter and the join pass over whole tiles by their boxes.
#pragma once

#include "cuda/knapsack_device.cuh"

namespace pynas::cuda::traversal {

constexpr int kTile = 128;  // entries, and threads of a block that works on tiles

// Entries along a Z curve through losses and costs, states apart, and the box of each tile of kTile of them.
struct Tiles {
  int64_t size, tiles;
  const int32_t* position;                                   // [n], in the list
  const int64_t* keys;                                       // [1 + M, n]
  const double* value;                                       // [n]
  const int32_t* state;                                      // [n]
  const int64_t *least, *most;                               // [1 + M, tiles]
  const double* least_value;                                 // [tiles]
  const int32_t *first_state, *last_state, *first_position;  // [tiles]
};

struct TilesMemory {
  Memory<int32_t> position, first_state, last_state, first_position;
  EntriesMemory sorted;
  Memory<int64_t> least, most;
  Memory<double> least_value;
};

Tiles make_tiles(Device& device, TilesMemory& memory, const Entries& entries, int limits, int states);

// Flags in `device.flags` the entries that fewer than top_k others of their state dominate, or that no tile it is compared with
// shows to be dominated: `near` tiles and twice as many as top_k dominators fill. `memory`: for tiles.
void flag_undominated(Device& device, TilesMemory& memory, const Entries& entries, int limits, int states,
                      int64_t top_k, int64_t near);

}  // namespace pynas::cuda::traversal
