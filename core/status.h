/* status.h: how things fail.  Failures of the world are returned as enum status with a message;
 * failures of the programmer abort (CHECK, in every build); a solve that does not converge is
 * neither: it is a result (struct fp_result). */
#ifndef CORE_STATUS_H
#define CORE_STATUS_H
#ifdef __cplusplus
extern "C" {
#endif

enum status {
  OK = 0,
  ERR_USAGE,       /* the command line or the configuration */
  ERR_DATA,        /* a file that was read is not what it must be */
  ERR_IO,          /* reading or writing failed */
  ERR_MEMORY,      /* memory ran out */
  ERR_DEVICE,      /* the accelerator or its driver */
  ERR_NUMERIC,     /* a loss, gradient or solve that is not finite */
  ERR_INTERRUPTED, /* the user asked to stop; a training run is saved */
};

#define MUST_USE __attribute__((warn_unused_result))

/* Records "text" as this thread's last error and returns `code`.  The text is for the person who
 * caused it; file and line of our own source are kept apart (last_error_place). */
MUST_USE enum status fail_at(enum status code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "text: " in front of this thread's last error; returns `code` unchanged. */
MUST_USE enum status fail_within(enum status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__ /* which cannot see that the answer is the first argument */
#define fail_at(code, ...) ((void)fail_at(code, __VA_ARGS__), (code))
#define fail_within(code, ...) ((void)fail_within(code, __VA_ARGS__), (code))
#endif

const char *last_error(void);       /* message of the last failure in this thread */
const char *last_error_place(void); /* "core/config.c:120" of the last failure in this thread */
int exit_code(enum status code);    /* exit status of a program: 0, 1, 2, 3 or 130 */

void check_failed(const char *file, int line, const char *cond) __attribute__((noreturn));

/* Records the failure and returns `code`, which static analysis thus sees. */
#define FAIL(code, ...)                                                   \
  do {                                                                    \
    enum status failed_ = fail_at(code, __FILE__, __LINE__, __VA_ARGS__); \
    (void)failed_;                                                        \
    return code;                                                          \
  } while (0)
#define TRY(call)              \
  do {                         \
    enum status try_ = (call); \
    if (try_ != OK)            \
      return try_;             \
  } while (0)
#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond))

#ifdef __cplusplus
}
#endif
#endif
