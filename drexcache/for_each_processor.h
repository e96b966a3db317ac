/* A function marked FOR_EACH_PROCESSOR is compiled twice if the compiler can: for processors with AVX2 and FMA, and for
   all others. */

#ifdef FOR_EACH_PROCESSOR /* given by the build */
#elif defined(__x86_64__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 16 : __GNUC__ >= 12)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
