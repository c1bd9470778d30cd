/* The coordinator: its book, its judgement, its transactions (book.go, judge.go,
 * draft.go, reign.go, coordinator.go). */

inline readTicket(c, m) { book[c].ticket[m] = ticket[m]; book[c].sameTicket[m] = (ticket[m] != 0) }
inline readPermit(c, m) {
	book[c].permit[m] = (permit[m] > DRAINING && permit[m] < ENDED -> DRAINING : permit[m]);
	book[c].samePermit[m] = (permit[m] == GRANTED || permit[m] == ENDED)
}
inline readRules(c) { book[c].limit = limit; book[c].frozen = frozen; book[c].sameRules = 1 }

/* Everything is read, as of one revision. */
inline load(c) {
	for (j : 0 .. N-1) { readTicket(c, j); readPermit(c, j) }
	j = 0;
	readRules(c)
}

/* The reign ends, as far as c knows. */
inline close(c) {
	for (j : 0 .. N-1) {
		book[c].ticket[j] = 0; book[c].sameTicket[j] = 0;
#ifndef MUTANT_BOOK_BEFORE_ELECTION
		book[c].permit[j] = 0; book[c].samePermit[j] = 0
#endif
	}
	j = 0;
	book[c].limit = 0; book[c].frozen = 0; book[c].sameRules = 0;
	book[c].reigns = 0
}

/* What c wrote is in its book before the watch tells of it. */
inline learn(c) {
	for (j : 0 .. N-1) {
		if
		:: what[j] -> readPermit(c, j); readTicket(c, j)
		:: else
		fi
	}
	j = 0
}

#ifdef PROGRESS
#define UNCOLLECTED(m) dead[m]
#else
#define UNCOLLECTED(m) true     /* clocks tell, and nothing is known of clocks */
#endif

/* Judge and draft: everything that ended, what was not collected, and grants
 * for what is free then, in one transaction. Machine `first` comes first, unless
 * the queue's order is gone by. */
#ifndef FIFO
#define NEXT(c, z, first) ((first + z) % N) /* zones, presence, etcd's quorum: anyone may be passed over */
#elif N == 2
#define NEXT(c, z, first) (book[c].ticket[0] == z -> 0 : 1)
#else
#define NEXT(c, z, first) (book[c].ticket[0] == z -> 0 : (book[c].ticket[1] == z -> 1 : 2))
#endif
#ifdef MUTANT_LAST_COME_FIRST
#define PLACE(z) (N + 1 - z)
#else
#define PLACE(z) z
#endif
inline draft(c, lapsed, first) {
	room = book[c].limit + N - HOLDING(book[c]); /* + N: never negative */
	for (j : 0 .. N-1) {
		if
		:: book[c].permit[j] == ENDED -> what[j] = END
		:: book[c].permit[j] == GRANTED && lapsed && UNCOLLECTED(j) -> what[j] = LAPSE; room++
		:: else
		fi
	}
	for (z : 1 .. N) {
		j = NEXT(c, PLACE(z), first);
		if
		:: book[c].ticket[j] && book[c].permit[j] == NONE && !what[j] && !book[c].frozen && room > N ->
			what[j] = GRANT; room--
		:: else
		fi
	}
	z = 0; j = 0; room = 0;
#ifdef MUTANT_GRANT_APART
	if /* grants go in one transaction, and what they count on in another */
	:: GRANTS ->
		for (j : 0 .. N-1) {
			if
			:: what[j] > GRANT -> what[j] = 0
			:: else
			fi
		}
		j = 0
	:: else
	fi
#endif
}

/* What it compares, as far as c knows the records, is still so. */
inline conditions(c) {
	ok = ABSENT;
#ifndef MUTANT_WITHOUT_LEADERSHIP
	ok = ok && leader == c;
#endif
#ifndef MUTANT_GRANT_WITHOUT_RULES
	ok = ok && book[c].sameRules;
#endif
	for (j : 0 .. N-1) {
		if
#ifndef MUTANT_GRANT_WITHOUT_TICKET
		:: what[j] == GRANT -> ok = ok && book[c].sameTicket[j]
#endif
#ifndef MUTANT_END_WITHOUT_PERMIT
		:: what[j] > GRANT -> ok = ok && book[c].samePermit[j]
#endif
		:: else
		fi
	}
	j = 0
}

/* How it goes with a transaction. */
#define ANSWERED 0
#define ANSWER_LOST 1
#define UNDER_WAY 2

inline commit(c, how) {
	conditions(c);
	if
	:: how == ANSWERED && ok -> carryOut(); learn(c)
	:: how == ANSWERED && !ok && leader == c -> load(c) /* the answer tells what does hold */
	:: how == ANSWERED && !ok && leader != c -> close(c)
	:: how == ANSWER_LOST -> SPEND;
		if
		:: ok -> carryOut()
		:: else /* or it was never carried out */
		fi;
		unknown(c)
	:: how == UNDER_WAY -> SPEND;
		if
		:: ok && !isLate[c] ->
			isLate[c] = 1;
			for (j : 0 .. N-1) { late[c].does[j] = what[j] }
			j = 0
		:: else
		fi;
		unknown(c)
	fi;
	ok = 0
}

/* The outcome of a transaction is not known: the reign ends, and the session
 * with it, or its lease later. */
inline unknown(c) {
#ifdef MUTANT_GO_ON_AFTER_UNKNOWN
	load(c)
#else
	close(c)
#endif
}

inline pass(c, lapsed, first, how) {
	draft(c, lapsed, first);
	if
	:: what[0] || what[1] || what[N-1] -> commit(c, how)
	:: else
	fi;
	for (j : 0 .. N-1) { what[j] = 0 }
	j = 0
}

#define NEWTICKET(c, m) (book[c].ticket[m] != ticket[m] || ticket[m] && !book[c].sameTicket[m])
#define NEWPERMIT(c, m) ((permit[m] == GRANTED || permit[m] == ENDED) && !book[c].samePermit[m] \
	|| (permit[m] == NONE || permit[m] >= DRAINING && permit[m] < ENDED) && book[c].permit[m] != (permit[m] -> DRAINING : NONE))

#ifdef ORDERED
#define ORDERLY && told
#else
#define ORDERLY
#endif

proctype Coordinator(byte c) {
	byte lapsed, first, how;
	bit told;
end:
	do
	/* elected: it reads everything */
	:: d_step { !book[c].reigns && leader == NOBODY ->
		leader = c;
		book[c].reigns = 1;
#ifdef MUTANT_BOOK_BEFORE_ELECTION
		for (j : 0 .. N-1) { readTicket(c, j) }
		j = 0;
		readRules(c)
#else
		load(c)
#endif
	}
	/* it learns that it was deposed, sooner or later; until then it is stalled,
	   and hears no news */
	:: d_step { book[c].reigns && leader != c -> close(c); told = 0 }
#ifdef ORDERED
	/* the watch tells of all keys by their revisions: the book is the store as it was */
	:: d_step { leader == c && book[c].reigns && !told -> load(c); told = 1 }
#else
	/* the watch tells of each key by its revisions: one event */
	:: d_step { leader == c && book[c].reigns && !book[c].sameRules -> readRules(c) }
	:: d_step { leader == c && book[c].reigns && NEWTICKET(c, 0) -> readTicket(c, 0) }
	:: d_step { leader == c && book[c].reigns && NEWTICKET(c, 1) -> readTicket(c, 1) }
	:: d_step { leader == c && book[c].reigns && NEWPERMIT(c, 0) -> readPermit(c, 0) }
	:: d_step { leader == c && book[c].reigns && NEWPERMIT(c, 1) -> readPermit(c, 1) }
#if N == 3
	:: d_step { leader == c && book[c].reigns && NEWTICKET(c, 2) -> readTicket(c, 2) }
	:: d_step { leader == c && book[c].reigns && NEWPERMIT(c, 2) -> readPermit(c, 2) }
#endif
#endif
#ifdef MUTANT_OLD_EVENT
	:: d_step { book[c].reigns && gone[c].does[0] -> gone[c].does[0] = 0; book[c].permit[0] = NONE }
	:: d_step { book[c].reigns && gone[c].does[1] -> gone[c].does[1] = 0; book[c].permit[1] = NONE }
#endif
	:: atomic { book[c].reigns ORDERLY ->
		if
#ifndef PROGRESS
		:: lapsed = 0
#endif
		:: lapsed = 1
		fi;
		if
		:: first = 0
#ifndef FIFO
		:: first = 1
#if N == 3
		:: first = 2
#endif
#endif
		fi;
		if
		:: how = ANSWERED
		:: MAYFAIL -> how = ANSWER_LOST
		:: MAYFAIL -> how = UNDER_WAY
		fi;
		d_step { pass(c, lapsed, first, how); lapsed = 0; first = 0; how = 0; told = 0 }
	}
	od
}

