/* A machine: its daemon, and the fence (client_ask.go). */

/* The fence of m for phase p, sent in this boot or in the one before, is
 * carried out. It writes even what is written already: that refuses whatever is
 * under way and was decided before. */
inline moved(m, p, boot) {
	assert(LIVE(permit[m]));        /* never without a permit, at this instant */
	assert(!frozen);                /* nor after a freeze */
#ifdef MUTANT_FENCE_WITHOUT_WRITE
	if
	:: permit[m] != p -> putPermit(m, p)
	:: else
	fi;
#else
	putPermit(m, p);
#endif
	if
	:: p == REBOOTING ->
		clear[m] = 1;
#ifndef MUTANT_BOOT_OF_THE_GRANT
		newBoot[m] = boot       /* the fence names the boot that is to end */
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

/* For safety a machine may give up at any time: a drain does not end, a window
 * shuts, somebody logs in. For progress it does so only for a freeze, or after a
 * fault, and then it goes back all the way. */
#ifdef PROGRESS
#define BACK back
#define GOBACK(v) back = v
#define GIVEUP (frozen || back)
#else
#define BACK false
#define GOBACK(v) skip
#define GIVEUP true
#endif

/* Unstage, or after a trial MarkGood or Reject; then Resume. */
inline putRight(m) {
	disk[m] = (disk[m] == TRIAL -> IDLE : WRITTEN);
	away[m] = 0; taken[m] = 0; clear[m] = 0;
	GOBACK(LIVE(permit[m]))
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
	lateBoot[m] = (lateMove[m] > ASK);
	clear[m] = 0;
	GOBACK(0);
	to = NONE
}

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
#ifdef PROGRESS
	bit back;                       /* it gives up */
#endif
end:
	do
	:: d_step { UP && disk[m] == IDLE && !away[m] && !LIVE(permit[m]) -> disk[m] = WRITTEN }
	:: d_step { UP && disk[m] == WRITTEN && !away[m] && !LIVE(permit[m]) && !ticket[m] -> putTicket(m) }
	:: d_step { UP && disk[m] == WRITTEN && !ticket[m] && !lateMove[m] && MAYFAIL -> SPEND; lateMove[m] = ASK }

	:: d_step { UP && MAYMOVE(m) -> to = MOVE(m); moved(m, to, 0) }
	:: d_step { UP && MAYMOVE(m) && MAYFAIL -> SPEND; to = MOVE(m); moved(m, to, 0); to = NONE }
	:: d_step { UP && MAYMOVE(m) && !lateMove[m] && MAYFAIL -> SPEND; lateMove[m] = MOVE(m) }

	:: d_step { to == DRAINING -> assert(LIVE(permit[m]) || taken[m]); away[m] = 1; to = NONE }
	:: d_step { to == STAGING -> assert(LIVE(permit[m]) || taken[m]); disk[m] = STAGED; to = NONE }
	:: d_step { to == REBOOTING -> reboot(m) }
	:: d_step { to && MAYFAIL -> SPEND; to = NONE; GOBACK(1) }

	:: d_step { UP && DOWN(m) && (!LIVE(permit[m]) || disk[m] == TRIAL || GIVEUP) -> putRight(m) }
	:: d_step { UP && MAYEND(m) -> ended(m); GOBACK(0) }
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

