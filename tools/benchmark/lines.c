// What `doors` puts by lines of JSON over TCP: CLIENTS connections, each with one request under way, a key of its own for
// each, 100 bytes of value, for SECONDS. Prints what came of it as a line of JSON.
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
    uint32_t *sorted = malloc((answered + 1) * sizeof(uint32_t));
    size_t at = 0;
    for (int n = 0; n < clients; n++) {
        memcpy(sorted + at, all[n].took, all[n].answered * sizeof(uint32_t));
        at += all[n].answered;
    }
    sorted[answered] = 0;
    qsort(sorted, answered, sizeof(uint32_t), less);
    printf("{\"answered\":%zu,\"seconds\":%f,\"failed\":%zu,\"p50_ms\":%f,\"p99_ms\":%f}\n", answered, took, failed,
           sorted[answered / 2] / 1e3, sorted[answered * 99 / 100] / 1e3);
    return 0;
}
