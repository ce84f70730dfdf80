/* A process that does as it is told, so that what the tracer counts is known exactly. One command a
 * line on standard input, one line back when it is done. It uses no stdio: a command costs one read
 * and one write.
 *
 *   map N       maps N pages          touch       writes to each of them: N page faults
 *   calls N     N times getppid()     spin MS     computes for so long
 *   pause MS    sleeps                thread MS   starts a thread that sleeps so long and ends
 *   send N B    N messages of B bytes, by ucp_tag_send_nbx; as many by ucp_tag_recv_nbx
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void *ucp_tag_send_nbx(void *endpoint, const void *buffer, size_t count, unsigned long tag,
                       const void *options);
void *ucp_tag_recv_nbx(void *worker, void *buffer, size_t count, unsigned long tag,
                       const void *options);

static long page_bytes;
static volatile char *pages;
static long page_count;

static void map_pages(long count) {
  page_count = count;
  pages =
      mmap(NULL, count * page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise((void *)pages, count * page_bytes, MADV_NOHUGEPAGE);
}

static void touch_pages(void) {
  for (long i = 0; i < page_count; ++i) pages[i * page_bytes] = 1;
}

static void pause_ms(long ms) {
  struct timespec rest = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&rest, &rest) != 0) {
  }
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void spin_ms(long ms) {
  const double end = now_ms() + ms;
  while (now_ms() < end) {
  }
}

static void *sleeper(void *ms) {
  pause_ms((long)ms);
  return NULL;
}

static void start_thread(long ms) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, sleeper, (void *)ms) == 0) pthread_detach(thread);
}

static void send_messages(long count, long bytes) {
  for (long i = 0; i < count; ++i) {
    ucp_tag_send_nbx(NULL, NULL, bytes, 0, NULL);
    ucp_tag_recv_nbx(NULL, NULL, bytes, 0, NULL);
  }
}

static void nothing(int signal) { (void)signal; }

static void obey(const char *line) {
  long first = 0, second = 0;
  char verb[16] = "";
  if (sscanf(line, "%15s %ld %ld", verb, &first, &second) < 1) return;
  if (!strcmp(verb, "map")) map_pages(first);
  if (!strcmp(verb, "touch")) touch_pages();
  if (!strcmp(verb, "spin")) spin_ms(first);
  if (!strcmp(verb, "pause")) pause_ms(first);
  if (!strcmp(verb, "thread")) start_thread(first);
  if (!strcmp(verb, "send")) send_messages(first, second);
  if (!strcmp(verb, "calls"))
    for (long i = 0; i < first; ++i) syscall(SYS_getppid);
}

int main(void) {
  page_bytes = sysconf(_SC_PAGESIZE);
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = nothing;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, NULL);
  char line[256];
  for (ssize_t bytes; (bytes = read(0, line, sizeof line - 1)) > 0;) {
    line[bytes] = '\0';
    obey(line);
    if (write(1, "done\n", 5) != 5) return 1;
  }
  return 0;
}
