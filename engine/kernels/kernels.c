/* All kernels in one unit, so that they share vectors, streams and activations. */
#include "blocks.c"
#include "descent.c"
#include "recurrence.c"
#include "moments.c"
