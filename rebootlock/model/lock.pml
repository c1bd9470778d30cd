/* The reboot lock's queue, grant and fence. README.md beside this file says
 * what is modelled, what is left out, and what each check claims.
 *
 * Every transition is one thing that happens as a whole: one transaction or one
 * read of the store, one event that reaches a book, one act of a machine upon
 * itself. Between any two of them everybody else may go on.
 */
#ifndef N
#define N 2                     /* machines of the group: 2 or 3 */
#endif
#ifndef MAX
#define MAX 1                   /* Rules.Max at the beginning, and the most that it is raised to */
#endif
#define C 2                     /* daemons that may coordinate */
#define NOBODY C

/* The phases of a permit, as in lock.go. NONE: there is no such key. */
#define NONE 0
#define GRANTED 1
#define DRAINING 2
#define STAGING 3
#define REBOOTING 4
#define ENDED 5
#define LIVE(p) ((p) != NONE && (p) != ENDED)

/* A machine's disk: nothing to do, a release is written, it is staged, it is
 * booted on trial. */
#define IDLE 0
#define WRITTEN 1
#define STAGED 2
#define TRIAL 3
#define DOWN(m) (away[m] || disk[m] >= STAGED) /* its work is off it, or its next boot is a trial */

/* What a transaction of the coordinator does about one machine. */
#define GRANT 1
#define END 2                   /* books a permit that ended, and deletes it */
#define LAPSE 3                 /* deletes a grant that was not collected */

/* ---- the store -------------------------------------------------------- */

byte ticket[N];                 /* place in the queue by Created, from 1 (where that matters); 0: none */
byte permit[N];
byte limit = MAX;               /* Rules.Max */
bit frozen;                     /* Rules.Freeze, Cluster.Freeze, or a release that was stopped */
byte leader = NOBODY;           /* whose leadership key there is */
bit newBoot[N];                 /* Permit.Boot is not the boot that the machine is in */

/* ---- who knows what --------------------------------------------------- */

/* A revision is compared with nothing but the one in the store. So numbers,
 * which would never end, are not needed: one bit says that what was read is
 * still what is there, and every write clears it in all that read before. */
typedef Book {
	bit reigns;             /* it believes that it leads */
	byte ticket[N];
	byte permit[N];         /* DRAINING stands for STAGING and REBOOTING too */
	byte limit;
	bit frozen;
	bit sameTicket[N];
	bit samePermit[N];      /* of GRANTED and ENDED */
	bit sameRules;          /* rules, cluster and failures: one record here */
}
Book book[C];

/* The permit that the operator looks at. */
byte operatorOn = N;
bit operatorSame;

/* Transactions that are under way while their sender no longer waits for them:
 * the store may carry them out at any time. One of which a condition no longer
 * holds never will be, and is dropped at once. */
typedef Draft { byte does[N] }
Draft late[C];                  /* of a coordinator */
bit isLate[C];
byte lateMove[N];               /* of a machine: the phase that it moves to, or */
#define ASK 1                   /* a ticket */

/* ---- the machines ------------------------------------------------------ */

byte disk[N];
bit away[N];                    /* its work was drained, and is not back */
bit dead[N];                    /* for ever */

/* Only claims read these. */
bit taken[N];                   /* the permit was taken away while it was down, and it has not put that right */
bit clear[N];                   /* nothing forbade the reboot when it last asked the store */

/* ---- how much may go wrong ---------------------------------------------- */

#ifdef FAULTS
byte faults = FAULTS;
#define MAYFAIL (faults > 0)
#define SPEND faults--
#else
#define MAYFAIL true
#define SPEND skip
#endif
#ifdef ACTS
byte acts = ACTS;               /* of the operator, beside thawing and clearing up after the dead */
#define MAYACT (acts > 0)
#define ACT acts--
#define LOOKED if :: dead[x] :: else -> acts-- fi
#else
#define MAYACT true
#define ACT skip
#define LOOKED skip
#endif

/* Scratch, 0 between transitions. */
hidden byte j, k, z, w, room, x;
hidden byte ok, grants;
hidden byte what[N];          /* the transaction that is being made, or carried out */

/* ---- changes of the store ------------------------------------------------- */

inline drop(c) {
	isLate[c] = 0;
	for (w : 0 .. N-1) { late[c].does[w] = 0 }
	w = 0
}

inline putPermit(m, p) {
	permit[m] = p;
	for (k : 0 .. C-1) {
		book[k].samePermit[m] = 0;
		if
#ifndef MUTANT_END_WITHOUT_PERMIT
		:: late[k].does[m] > GRANT -> drop(k)
#endif
		:: else
		fi
	}
	k = 0;
	if
	:: lateMove[m] > ASK -> lateMove[m] = 0
	:: else
	fi;
#ifndef MUTANT_TAKE_AWAY_WITHOUT_PERMIT
	if
	:: operatorOn == m -> operatorSame = 0
	:: else
	fi
#endif
}

inline forgetTicket(m) {
	for (k : 0 .. C-1) {
		book[k].sameTicket[m] = 0;
		if
#ifndef MUTANT_GRANT_WITHOUT_TICKET
		:: late[k].does[m] == GRANT -> drop(k)
#endif
		:: else
		fi
	}
	k = 0
}

inline dropTicket(m) {
	for (k : 0 .. N-1) {
		if
		:: ticket[m] && ticket[k] > ticket[m] -> ticket[k] = ticket[k] - 1
		:: else
		fi
	}
	ticket[m] = 0;
	forgetTicket(m)
}

inline putTicket(m) {
	ticket[m] = 1;
#ifdef ORDERED
	for (k : 0 .. N-1) {
		if
		:: k != m && ticket[k] >= ticket[m] -> ticket[m] = ticket[k] + 1
		:: else
		fi
	}
#endif
	forgetTicket(m)
}

/* Rules, cluster or failures were written. */
inline putRules() {
	for (k : 0 .. C-1) {
		book[k].sameRules = 0;
#ifndef MUTANT_GRANT_WITHOUT_RULES
		drop(k)
#endif
	}
	for (k : 0 .. N-1) {
		if
#ifndef MUTANT_FENCE_WITHOUT_FREEZE
		:: lateMove[k] > ASK && lateMove[k] < ENDED -> lateMove[k] = 0
#endif
		:: else
		fi
	}
	k = 0
}

inline depose() {
#ifndef MUTANT_WITHOUT_LEADERSHIP
	if
	:: leader < C -> drop(leader)
	:: else
	fi;
#endif
	leader = NOBODY
}

/* ---- the coordinator's transactions, and what must hold at them ------------ */

#if N == 2
#define HOLDERS (LIVE(permit[0]) + LIVE(permit[1]))
#define HOLDING(b) (LIVE(b.permit[0]) + LIVE(b.permit[1]))
#define GRANTS (what[0] == GRANT || what[1] == GRANT)
#define ABSENT ((what[0] != GRANT || permit[0] == NONE) && (what[1] != GRANT || permit[1] == NONE))
#else
#define HOLDERS (LIVE(permit[0]) + LIVE(permit[1]) + LIVE(permit[2]))
#define HOLDING(b) (LIVE(b.permit[0]) + LIVE(b.permit[1]) + LIVE(b.permit[2]))
#define GRANTS (what[0] == GRANT || what[1] == GRANT || what[2] == GRANT)
#define ABSENT ((what[0] != GRANT || permit[0] == NONE) && (what[1] != GRANT || permit[1] == NONE) && (what[2] != GRANT || permit[2] == NONE))
#endif

/* What is in `what` is carried out. */
inline carryOut() {
	grants = GRANTS;
	assert(!grants || !frozen);              /* no grant after a freeze */
	for (j : 0 .. N-1) {
		if
		:: what[j] == GRANT -> inTurn(j)
		:: what[j] == END -> assert(permit[j] == ENDED) /* no permit lost */
		:: what[j] == LAPSE -> assert(permit[j] == GRANTED)
		:: else
		fi
	}
	for (j : 0 .. N-1) {
		if
		:: what[j] == GRANT ->
			assert(ticket[j] && permit[j] == NONE); /* to one that waits */
			putPermit(j, GRANTED);
			dropTicket(j);
			newBoot[j] = 0
		:: what[j] > GRANT ->
			assert(!DOWN(j) || taken[j] || dead[j]);
			putPermit(j, NONE)
		:: else
		fi
	}
	assert(!grants || HOLDERS <= limit);     /* at most max holders */
	for (j : 0 .. N-1) { /* who is down holds one of them */
		assert(!grants || !DOWN(j) || LIVE(permit[j]) || taken[j] || dead[j])
	}
	grants = 0;
	j = 0
}

/* First come, first served: who came before m gets its permit with m, or has
 * one. That is claimed where a book is always the store as it once was. */
inline inTurn(m) {
#ifdef ORDERED
	for (k : 0 .. N-1) {
		assert(!(ticket[k] && ticket[k] < ticket[m]) || what[k] == GRANT || permit[k] != NONE)
	}
	k = 0
#else
	skip
#endif
}

/* ---- the coordinator ------------------------------------------------------- */

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
#ifndef ORDERED
#define NEXT(c, z, first) ((first + z) % N) /* zones, presence, etcd's quorum: anyone may be passed over */
#elif N == 2
#define NEXT(c, z, first) (book[c].ticket[0] == z -> 0 : 1)
#else
#define NEXT(c, z, first) (book[c].ticket[0] == z -> 0 : (book[c].ticket[1] == z -> 1 : 2))
#endif

/* Judge and draft: everything that ended, what was not collected, and grants
 * for what is free then, in one transaction. Machine `first` comes first. */
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
		j = NEXT(c, z, first);
		if
		:: book[c].ticket[j] && book[c].permit[j] == NONE && !book[c].frozen && room > N ->
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
	:: atomic { book[c].reigns ORDERLY ->
		if
#ifndef PROGRESS
		:: lapsed = 0
#endif
		:: lapsed = 1
		fi;
		if
		:: first = 0
#ifndef ORDERED
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

/* ---- a machine ---------------------------------------------------------- */

/* The permit of m moves to phase p, by its own fence. */
inline moved(m, p) {
	assert(LIVE(permit[m]));        /* never without a permit, at this instant */
	assert(!frozen);                /* nor after a freeze */
	putPermit(m, p);
	if
	:: p == REBOOTING ->
		clear[m] = 1;
#ifndef MUTANT_BOOT_OF_THE_GRANT
		newBoot[m] = 0          /* the fence writes the boot that is about to end */
#endif
	:: else
	fi
}

inline ended(m) {
	assert(LIVE(permit[m]));
	assert(!DOWN(m));               /* the permit outlives every risk */
	putPermit(m, ENDED);
	newBoot[m] = 0; clear[m] = 0
}

/* Unstage, or after a trial MarkGood or Reject; then Resume. */
inline putRight(m) {
	disk[m] = (disk[m] == TRIAL -> IDLE : WRITTEN);
	away[m] = 0; taken[m] = 0; clear[m] = 0;
	back = LIVE(permit[m])
}

/* The machine goes down as it was allowed to. */
inline reboot(m) {
	assert(permit[m] == REBOOTING); /* nobody took it away, and it is counted */
	assert(clear[m]);               /* nor was there a freeze that it could have seen */
	crash(m)
}

/* The machine goes down, and comes up: with the trial, if that was staged. */
inline crash(m) {
	disk[m] = (disk[m] == STAGED -> TRIAL : disk[m]);
	newBoot[m] = LIVE(permit[m]);
	clear[m] = 0;
	back = 0; to = NONE
}

#ifdef PROGRESS
#define GIVEUP (frozen || back)
#define BACK back
#else
#define GIVEUP true     /* a drain that does not end, a window that shut, a session */
#define BACK false
#endif

#define MAYMOVE(m) (LIVE(permit[m]) && !frozen && !BACK && (disk[m] == WRITTEN || disk[m] == STAGED))
#define MOVE(m) (disk[m] == STAGED -> REBOOTING : (away[m] -> STAGING : DRAINING))
#define MAYEND(m) (LIVE(permit[m]) && !DOWN(m) && (disk[m] == IDLE || GIVEUP))

/* A machine remembers nothing but what it is about to do: each step senses the
 * store, decides, and asks for a transaction that compares what was sensed. One
 * that is carried out, and answered, is one with the sensing; all others are
 * refused, or under way. */
#define UP (!dead[m] && !to)

proctype Machine(byte m) {
	byte to;                        /* what its fence allowed, and it is about to do */
	bit back;                       /* it goes back: a drain did not end, or the like */
end:
	do
	:: d_step { UP && disk[m] == IDLE && !away[m] && !LIVE(permit[m]) -> disk[m] = WRITTEN }
	:: d_step { UP && disk[m] == WRITTEN && !away[m] && !LIVE(permit[m]) && !ticket[m] -> putTicket(m) }
	:: d_step { UP && disk[m] == WRITTEN && !ticket[m] && !lateMove[m] && MAYFAIL -> SPEND; lateMove[m] = ASK }

	:: d_step { UP && MAYMOVE(m) -> to = MOVE(m); moved(m, to) }
	:: d_step { UP && MAYMOVE(m) && MAYFAIL -> SPEND; to = MOVE(m); moved(m, to); to = NONE }
	:: d_step { UP && MAYMOVE(m) && !lateMove[m] && MAYFAIL -> SPEND; lateMove[m] = MOVE(m) }

	:: d_step { to == DRAINING -> assert(LIVE(permit[m]) || taken[m]); away[m] = 1; to = NONE }
	:: d_step { to == STAGING -> assert(LIVE(permit[m]) || taken[m]); disk[m] = STAGED; to = NONE }
	:: d_step { to == REBOOTING -> reboot(m) }
	:: d_step { to && MAYFAIL -> SPEND; to = NONE; back = 1 }

	:: d_step { UP && DOWN(m) && (!LIVE(permit[m]) || disk[m] == TRIAL || GIVEUP) -> putRight(m) }
	:: d_step { UP && MAYEND(m) -> ended(m); back = 0 }
	:: d_step { UP && MAYEND(m) && !lateMove[m] && MAYFAIL -> SPEND; lateMove[m] = ENDED }

	:: d_step { !dead[m] && MAYFAIL -> SPEND; crash(m) }
	:: d_step { !dead[m] && MAYFAIL -> SPEND; crash(m); dead[m] = 1 }
#ifdef MUTANT_PHASE_IS_ENOUGH
	:: d_step { UP && permit[m] == REBOOTING && disk[m] == STAGED -> clear[m] = clear[m] && !frozen; to = REBOOTING }
#endif
#ifdef MUTANT_RELEASE_EARLY
	:: d_step { UP && LIVE(permit[m]) && disk[m] == TRIAL -> ended(m) }
#endif
	od
}

/* ---- the operator -------------------------------------------------------- */

/* Without force a permit in REBOOTING is taken away only on evidence: the
 * machine is there in another boot, or is known to be dead. */
#define MAYTAKE(m) (dead[m] && LIVE(permit[m]) || MAYACT && (permit[m] >= GRANTED && permit[m] <= STAGING || permit[m] == REBOOTING && newBoot[m]))

inline takeAway(m) {
	putPermit(m, NONE);
	taken[m] = 1; newBoot[m] = 0; clear[m] = 0
}

proctype Operator() {
end:
	do
	:: d_step { !frozen && MAYACT -> ACT; frozen = 1; putRules() }
	:: d_step { frozen -> frozen = 0; putRules() }
#if MAX > 1
	:: d_step { MAYACT -> ACT; limit = (limit == MAX -> MAX - 1 : MAX); putRules() }
#endif
	/* it looks at a permit, and takes it away if it is still so */
	:: d_step { operatorOn == N && MAYTAKE(0) -> operatorOn = 0; operatorSame = 1 }
	:: d_step { operatorOn == N && MAYTAKE(1) -> operatorOn = 1; operatorSame = 1 }
#if N == 3
	:: d_step { operatorOn == N && MAYTAKE(2) -> operatorOn = 2; operatorSame = 1 }
#endif
	:: d_step { operatorOn < N ->
		x = operatorOn;
		if
		:: operatorSame && (dead[x] || MAYACT) -> LOOKED; takeAway(x)
		:: else
		fi;
		operatorOn = N; operatorSame = 0; x = 0
	}
	od
}

/* ---- what nobody does on purpose ------------------------------------------- */

inline lapse(m) {
	/* a lease ends */
	if
	:: d_step { ticket[m] && dead[m] -> dropTicket(m) }
	:: d_step { ticket[m] && !dead[m] && MAYFAIL -> SPEND; dropTicket(m) }
#ifdef MUTANT_PERMIT_LEASED
	:: d_step { LIVE(permit[m]) && MAYFAIL -> SPEND; putPermit(m, NONE) }
#endif
	/* what was under way arrives, or does not */
	:: d_step { lateMove[m] == ASK && !ticket[m] && !LIVE(permit[m]) -> lateMove[m] = 0; putTicket(m) }
	:: d_step { lateMove[m] > ASK && lateMove[m] < ENDED -> x = lateMove[m]; lateMove[m] = 0; moved(m, x); x = 0 }
	:: d_step { lateMove[m] == ENDED -> lateMove[m] = 0; ended(m) }
	:: d_step { lateMove[m] -> lateMove[m] = 0 }
	fi
}

inline arrive(c) {
	for (j : 0 .. N-1) { what[j] = late[c].does[j] }
	drop(c);
	if
	:: ABSENT -> carryOut()
	:: else
	fi;
	for (j : 0 .. N-1) { what[j] = 0 }
	j = 0
}

proctype Nature() {
end:
	do
	/* the leader's lease ends: while it believes in it, and after it gave up */
	:: d_step { leader != NOBODY && book[leader].reigns && MAYFAIL -> SPEND; depose() }
	:: d_step { leader != NOBODY && !book[leader].reigns -> depose() }
	:: atomic { lapse(0) }
	:: atomic { lapse(1) }
#if N == 3
	:: atomic { lapse(2) }
#endif
	:: d_step { isLate[0] -> arrive(0) }
	:: d_step { isLate[1] -> arrive(1) }
	:: d_step { isLate[0] -> drop(0) }
	:: d_step { isLate[1] -> drop(1) }
	od
}

init {
	atomic {
		run Coordinator(0); run Coordinator(1);
		run Machine(0); run Machine(1);
#if N == 3
		run Machine(2);
#endif
		run Operator(); run Nature()
	}
}

#ifdef PROGRESS
/* Who waits is granted, for as long as it lives. */
ltl progress { [] ((disk[0] == WRITTEN && !LIVE(permit[0])) -> <> (LIVE(permit[0]) || dead[0])) }
#endif
