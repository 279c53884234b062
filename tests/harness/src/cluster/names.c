/*
 * A name server for tests: tells the IPv4 addresses that it was given as arguments, NAME ADDRESS and so on, by UDP. Every
 * other question it answers with "no such name".
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

/* A question's name with dots; where what follows it begins, or 0. */
static int name_of(const unsigned char *packet, int length, char *name, int room)
{
	int at = 12, to = 0;

	while (at < length && packet[at]) {
		int label = packet[at++];

		if (label > 63 || at + label > length || to + label + 1 >= room)
			return 0;
		if (to)
			name[to++] = '.';
		memcpy(name + to, packet + at, label);
		to += label;
		at += label;
	}
	name[to] = 0;
	return at + 5 <= length ? at + 1 : 0;
}

int main(int count, char **words)
{
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons(53) };
	int sock = socket(AF_INET, SOCK_DGRAM, 0);

	if (sock < 0 || bind(sock, (struct sockaddr *)&here, sizeof(here))) {
		perror("port 53");
		return 1;
	}
	for (;;) {
		unsigned char packet[1024];
		char name[256];
		struct sockaddr_in from;
		socklen_t size = sizeof(from);
		int length = recvfrom(sock, packet, 512, 0, (struct sockaddr *)&from, &size);
		int after = length > 12 ? name_of(packet, length, name, sizeof(name)) : 0;
		int i, end = after + 4;
		struct in_addr address = { 0 };

		/* One question of class IN, not an answer. */
		if (!after || packet[2] & 0x80 || packet[4] || packet[5] != 1)
			continue;
		for (i = 1; i + 1 < count; i += 2)
			if (!strcasecmp(name, words[i]))
				inet_aton(words[i + 1], &address);
		/* An answer, by an authority; no such name unless there is one. Records that came along are left out. */
		packet[2] = 0x84 | (packet[2] & 1);
		packet[3] = address.s_addr ? 0 : 3;
		memset(packet + 6, 0, 6);
		if (address.s_addr && packet[after] == 0 && packet[after + 1] == 1) {
			static const unsigned char record[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4 };

			packet[7] = 1;
			memcpy(packet + end, record, sizeof(record));
			memcpy(packet + end + sizeof(record), &address, 4);
			end += sizeof(record) + 4;
		}
		sendto(sock, packet, end, 0, (struct sockaddr *)&from, size);
	}
}
