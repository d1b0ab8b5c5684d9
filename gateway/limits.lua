-- Requests and tokens per minute in an exact sliding window: the calls of the last 60 seconds, by Redis' own clock.
-- Concurrent requests as leases in a sorted set, so that a dead process cannot keep them. A refusal takes nothing, by
-- whichever allowance, and a repeat of the same call (its first answer was lost) takes nothing twice.
--
-- KEYS: three of the account, and three of its key if that has limits of its own (one hash tag: one node):
--       window (calls by moment), tokens (of each of them, and their `total`), leases
-- ARGV: call id, its tokens, its lease in microseconds (0: only look), and for each three KEYS:
--       requests/minute, tokens/minute, concurrent
-- returns: {refused limit or '', by the how-manieth three KEYS, wait, and for each of them:
--       requests, tokens, running calls, time until the window is empty}; times in microseconds
local MINUTE = 60 * 1000 * 1000
local CHUNK = 500  -- of calls; so many arguments fit Lua's stack
local call, asked, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function tokens_of(tokens, calls)
    local sum = 0
    for _, count in ipairs(redis.call('HMGET', tokens, unpack(calls))) do
        sum = sum + (tonumber(count) or 0)
    end
    return sum
end

local function forget_older_calls(window, tokens)
    repeat
        local old = redis.call('ZRANGEBYSCORE', window, '-inf', now - MINUTE, 'LIMIT', 0, CHUNK)
        if #old > 0 then
            redis.call('HINCRBY', tokens, 'total', 0 - tokens_of(tokens, old))
            redis.call('HDEL', tokens, unpack(old))
            redis.call('ZREMRANGEBYRANK', window, 0, #old - 1)
        end
    until #old < CHUNK
end

local function leaves_in(window, position)  -- when the call at this position, oldest first, leaves the window
    local entry = redis.call('ZRANGE', window, position, position, 'WITHSCORES')
    return entry[2] and math.ceil(tonumber(entry[2]) + MINUTE - now) or MINUTE
end

local function tokens_come_back_in(window, tokens, missing)
    local from = 0
    repeat
        local calls = redis.call('ZRANGE', window, from, from + CHUNK - 1)
        local counts = #calls > 0 and redis.call('HMGET', tokens, unpack(calls)) or {}
        for position, count in ipairs(counts) do
            missing = missing - (tonumber(count) or 0)
            if missing <= 0 then
                return leaves_in(window, from + position - 1)
            end
        end
        from = from + CHUNK
    until #calls < CHUNK
    return MINUTE
end

local refused, by, wait = '', 0, 0
local function refuse(limit, holder, its_wait)
    if its_wait > wait then  -- the longest is the true one
        refused, by, wait = limit, holder, its_wait
    end
end

local uses = {}
for holder = 1, #KEYS / 3 do
    local at = holder * 3
    local window, tokens, leases = KEYS[at - 2], KEYS[at - 1], KEYS[at]
    redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
    forget_older_calls(window, tokens)
    uses[holder] = {
        redis.call('ZCARD', window), tonumber(redis.call('HGET', tokens, 'total')) or 0, redis.call('ZCARD', leases),
    }
end

local taking = lease > 0 and not redis.call('ZSCORE', KEYS[1], call)
if taking then
    for holder, use in ipairs(uses) do
        local at = holder * 3
        local most_requests, most_tokens = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
        if use[1] >= most_requests then
            refuse('requests', holder, leaves_in(KEYS[at - 2], use[1] - most_requests))
        end
        if use[2] + asked > most_tokens then
            refuse('tokens', holder, tokens_come_back_in(KEYS[at - 2], KEYS[at - 1], use[2] + asked - most_tokens))
        end
    end
    for holder, use in ipairs(uses) do
        if refused == '' and use[3] >= tonumber(ARGV[holder * 3 + 3]) then
            refuse('concurrency', holder, 1000000)  -- nobody knows when a running call ends
        end
    end
end
local taken = taking and refused == ''
if taken then
    for holder, use in ipairs(uses) do
        local at = holder * 3
        use[1], use[2], use[3] = use[1] + 1, use[2] + asked, use[3] + 1
        redis.call('ZADD', KEYS[at - 2], now, call)
        redis.call('HSET', KEYS[at - 1], call, asked, 'total', use[2])
        redis.call('ZADD', KEYS[at], now + lease, call)
        redis.call('PEXPIRE', KEYS[at - 2], 2 * 60000)
        redis.call('PEXPIRE', KEYS[at - 1], 2 * 60000)
        redis.call('PEXPIRE', KEYS[at], 180 * 60000)  -- longer than the longest call
    end
end

local answer = {refused, by, wait}
for holder, use in ipairs(uses) do
    for _, figure in ipairs(use) do
        answer[#answer + 1] = figure
    end
    answer[#answer + 1] = taken and MINUTE or use[1] > 0 and leaves_in(KEYS[holder * 3 - 2], -1) or 0
end
return answer
