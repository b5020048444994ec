// What `doors` puts by lines of JSON over TCP: CLIENTS connections, each with one request under way, a key of its own for
// each, 100 bytes of value, for SECONDS. Prints what came of it as a line of JSON. As wrk does, it counts a pause for each
// request that would have come in it, had the client gone on asking at its usual pace.
//
//   lines PORT CLIENTS SECONDS
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 200000 };  // requests of a client

struct client {
    pthread_t thread;
    int number;
    uint32_t *took;  // microseconds of each
    size_t answered, failed;
};

static int port;
static double seconds;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int reach(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to) < 0) {
        perror("connect");
        exit(1);
    }
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return s;
}

static void *put(void *of) {
    struct client *c = of;
    char value[101], line[512], answer[512];
    memset(value, 'v', 100);
    value[100] = 0;
    int s = reach();
    double began = now(), end = began + seconds;
    for (double start = began; start < end && c->answered + c->failed < MOST;) {
        int len = snprintf(line, sizeof line, "{\"operation\":\"put\",\"database\":1,\"key\":\"%ld-%d-%zu\",\"value\":\"%s\"}\n",
                           (long)time(NULL), c->number, c->answered + c->failed, value);
        if (write(s, line, len) != len) break;
        size_t got = 0;
        do {
            ssize_t more = read(s, answer + got, sizeof answer - got);
            if (more <= 0) goto over;
            got += more;
        } while (answer[got - 1] != '\n' && got < sizeof answer);
        double later = now();
        if (strncmp(answer, "{\"ok\":true", 10)) c->failed++;
        else c->took[c->answered++] = (later - start) * 1e6;
        start = later;
    }
    close(s);
    return NULL;
over:
    c->failed++;
    close(s);
    return NULL;
}

/// What requests would have taken that would have come within pauses: how many, and in `more`, if it is there, how long.
static size_t within(const uint32_t *took, size_t count, int64_t pace, uint32_t *more) {
    size_t found = 0;
    for (size_t n = 0; n < count && pace > 0; n++) {
        for (int64_t left = took[n] - pace; left > pace; left -= pace) {
            if (more) more[found] = left;
            found++;
        }
    }
    return found;
}

static int less(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "lines PORT CLIENTS SECONDS\n");
        return 2;
    }
    port = atoi(argv[1]);
    seconds = atof(argv[3]);
    int clients = atoi(argv[2]);
    struct client *all = calloc(clients, sizeof *all);
    double began = now();
    for (int n = 0; n < clients; n++) {
        all[n].number = n;
        all[n].took = malloc(MOST * sizeof(uint32_t));
        pthread_create(&all[n].thread, NULL, put, &all[n]);
    }
    size_t answered = 0, failed = 0;
    for (int n = 0; n < clients; n++) {
        pthread_join(all[n].thread, NULL);
        answered += all[n].answered;
        failed += all[n].failed;
    }
    double took = now() - began;
    int64_t pace = answered >= (size_t)clients ? took * 1e6 / (answered / clients) : 0;
    uint32_t *each = malloc((answered + 1) * sizeof(uint32_t));
    size_t at = 0;
    for (int n = 0; n < clients; n++) {
        memcpy(each + at, all[n].took, all[n].answered * sizeof(uint32_t));
        at += all[n].answered;
    }
    size_t count = answered + within(each, answered, pace, NULL);
    uint32_t *sorted = malloc((count + 1) * sizeof(uint32_t));
    memcpy(sorted, each, answered * sizeof(uint32_t));
    within(each, answered, pace, sorted + answered);
    qsort(sorted, count, sizeof(uint32_t), less);
    sorted[count] = 0;
    printf("{\"answered\":%zu,\"seconds\":%f,\"failed\":%zu,\"p50_ms\":%f,\"p99_ms\":%f,\"max_ms\":%f}\n", answered, took,
           failed, sorted[count / 2] / 1e3, sorted[count * 99 / 100] / 1e3, count ? sorted[count - 1] / 1e3 : 0);
    return 0;
}
