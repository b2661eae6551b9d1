// Headers of libstdc++ read a flag that came with glibc 2.32, and a library that was linked there would run
// nowhere older. This one stands in for it: counts are always atomic, as where several threads run.
#ifdef __linux__
#include <features.h>
#endif

#ifdef __GLIBC__
extern "C" {
extern char __libc_single_threaded __attribute__((visibility("hidden")));
char __libc_single_threaded = 0;
}
#endif
