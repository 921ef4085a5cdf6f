/* graphs.h: how often the stand-in for CUDA did what with graphs.  The plug-in that has it exports
 * `emulated_graphs`. */
#ifndef TESTS_EMULATION_GRAPHS_H
#define TESTS_EMULATION_GRAPHS_H
struct emulated_graphs {
  int captured, instantiated, updated, refused, replayed; /* refused: updates */
};
#endif
