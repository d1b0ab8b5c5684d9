-- Requests and tokens per minute as GCRA: one number per limit, the "theoretical arrival time" (TAT) in microseconds of
-- Redis' own clock. Concurrent requests as leases in a sorted set, so that a dead process cannot keep them.
-- A refusal takes nothing.
--
-- KEYS: requests, tokens, leases          (one hash tag: they live on one node)
-- ARGV: requests/minute, tokens/minute, concurrent, tokens of this call, call id, lease in microseconds
-- returns: {refused limit or '', wait, requests left, their reset, tokens left, their reset}; waits and resets in microseconds
local MINUTE = 60 * 1000 * 1000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function ahead(key)  -- how far the limit is used up, in microseconds of its minute
    return math.max((tonumber(redis.call('GET', key)) or 0) - now, 0)
end

local per_request, per_token = MINUTE / ARGV[1], MINUTE / ARGV[2]
local requests, tokens = ahead(KEYS[1]), ahead(KEYS[2])
local requests_after, tokens_after = requests + per_request, tokens + ARGV[4] * per_token

redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
local refused, wait = '', 0
if requests_after > MINUTE + 1 then
    refused, wait = 'requests', requests_after - MINUTE
end
if tokens_after > MINUTE + 1 and tokens_after - MINUTE > wait then  -- the longer wait is the true one
    refused, wait = 'tokens', tokens_after - MINUTE
end
if refused == '' and redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[3]) then
    refused, wait = 'concurrency', 1000000
end
if refused == '' then
    requests, tokens = requests_after, tokens_after
    redis.call('SET', KEYS[1], string.format('%.0f', now + requests), 'PX', 61000)
    redis.call('SET', KEYS[2], string.format('%.0f', now + tokens), 'PX', 61000)
    redis.call('ZADD', KEYS[3], now + ARGV[6], ARGV[5])
    redis.call('PEXPIRE', KEYS[3], 3600000)
end
return {
    refused, math.ceil(wait),
    math.max(math.floor((MINUTE - requests + 1) / per_request), 0), math.ceil(requests),
    math.max(math.floor((MINUTE - tokens + 1) / per_token), 0), math.ceil(tokens),
}
