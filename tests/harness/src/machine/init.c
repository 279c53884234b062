/*
 * The first process of a machine and of every pod: collects processes whose parents are gone, and ends when it is told.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal)
{
	_exit(128 + signal);
}

static void collect(int signal)
{
	(void)signal;
	while (waitpid(-1, 0, WNOHANG) > 0)
		;
}

int main(void)
{
	struct sigaction on_end = { .sa_handler = end };
	struct sigaction on_child = { .sa_handler = collect, .sa_flags = SA_NOCLDSTOP };

	sigaction(SIGINT, &on_end, 0);
	sigaction(SIGTERM, &on_end, 0);
	sigaction(SIGCHLD, &on_child, 0);
	/* Some may have ended before anybody listened. */
	collect(SIGCHLD);
	for (;;)
		pause();
}
