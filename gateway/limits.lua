-- Requests and tokens per minute in an exact sliding window: the calls of the last 60 seconds, by Redis' own clock.
-- Concurrent requests as leases in a sorted set, so that a dead process cannot keep them. A refusal takes nothing, and
-- a repeat of the same call (its first answer was lost) takes nothing twice.
--
-- KEYS: window (calls by moment), tokens (of each of them, and their `total`), leases    (one hash tag: one node)
-- ARGV: requests/minute, tokens/minute, concurrent, tokens of this call, call id, lease in microseconds
-- returns: {refused limit or '', wait, requests left, tokens left, reset of both}; times in microseconds
local MINUTE = 60 * 1000 * 1000
local window, tokens, leases = KEYS[1], KEYS[2], KEYS[3]
local most_requests, most_tokens, most_leases = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local asked, call = tonumber(ARGV[4]), ARGV[5]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

for _, old in ipairs(redis.call('ZRANGEBYSCORE', window, '-inf', now - MINUTE)) do
    redis.call('HINCRBY', tokens, 'total', -(tonumber(redis.call('HGET', tokens, old)) or 0))
    redis.call('HDEL', tokens, old)
    redis.call('ZREM', window, old)
end
redis.call('ZREMRANGEBYSCORE', leases, '-inf', now)
local requests = redis.call('ZCARD', window)
local used = tonumber(redis.call('HGET', tokens, 'total')) or 0

local function leaves_in(position)  -- when the call at this position, oldest first, leaves the window
    local entry = redis.call('ZRANGE', window, position, position, 'WITHSCORES')
    return entry[2] and tonumber(entry[2]) + MINUTE - now or MINUTE
end

local function tokens_come_back_in(missing)
    for position, id in ipairs(redis.call('ZRANGE', window, 0, -1)) do
        missing = missing - (tonumber(redis.call('HGET', tokens, id)) or 0)
        if missing <= 0 then
            return leaves_in(position - 1)
        end
    end
    return MINUTE
end

local refused, wait = '', 0
if not redis.call('ZSCORE', window, call) then
    if requests >= most_requests then
        refused, wait = 'requests', leaves_in(requests - most_requests)
    end
    if used + asked > most_tokens then
        local tokens_wait = tokens_come_back_in(used + asked - most_tokens)
        if tokens_wait > wait then  -- the longer wait is the true one
            refused, wait = 'tokens', tokens_wait
        end
    end
    if refused == '' and redis.call('ZCARD', leases) >= most_leases then
        refused, wait = 'concurrency', 1000000
    end
    if refused == '' then
        requests, used = requests + 1, used + asked
        redis.call('ZADD', window, now, call)
        redis.call('HSET', tokens, call, asked, 'total', used)
        redis.call('ZADD', leases, now + ARGV[6], call)
        redis.call('PEXPIRE', window, 2 * 60000)
        redis.call('PEXPIRE', tokens, 2 * 60000)
        redis.call('PEXPIRE', leases, 60 * 60000)
    end
end
local reset = requests > 0 and leaves_in(-1) or 0
return {
    refused, math.ceil(wait), math.max(most_requests - requests, 0), math.max(most_tokens - used, 0), math.ceil(reset),
}
